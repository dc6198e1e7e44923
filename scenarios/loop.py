"""The round loop: play -> labels -> rows -> update -> evaluate, as often as the scenario says.

Every stage first looks into the store for what it has already done, so that a killed run goes on
where it stopped. What an iteration plays follows from the store alone, never from the clock.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import superalign
from superalign.agents import Ask, Model, Request, Sampling, complete, view
from superalign.learners import LEARNERS, FlipRates, measure_flips
from superalign.learners.rows import rows as rows_of
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Plan, Setting, call_seed
from superalign.store import Episode, Evaluation, Label, PolicyVersion, Row, Run, Store, Task, Turn
from superalign.store.labels import LabelBook
from superalign.store.lineage import standing
from superalign.store.records import Message, digest

from .archive import Archive, spread
from .choosing import Chosen, choose, control, simulate
from .items import SWAPPED, swapped
from .labelling import label_case, labels_of, open_cases
from .resolve import Resolved, build_cast, build_models, people_of, weights_folder
from .scenario import TransformersEngine

Event = Literal["play", "learn", "evaluate"]
Progress = Callable[[Event, int, int, int, dict[str, Any]], None]
"""Told (what, iteration, done, total, facts) whenever something has moved."""


@dataclass
class Experiment:
    """One run of one scenario in one folder. Single use."""

    run: str
    resolved: Resolved
    store: Store
    folder: Path
    progress: Progress
    models: dict[str, Model] = field(default_factory=dict)
    failed: int = 0
    parked: bool = False
    """Whether it stopped because people are wanted: to go on, answer and run it again."""

    async def go(self) -> None:
        """Run every iteration, from what the store already holds, until people are wanted."""
        scenario = self.resolved.loaded.scenario
        self._begin()
        people = people_of(self.resolved, self.store.url, self.run)
        self.models = build_models(self.resolved, people=people)
        try:
            self._load_versions()
            await self._evaluate(0)
            for iteration in range(1, scenario.iterations + 1):
                if self._policy(iteration) not in self._trained():
                    await self._iterate(iteration)
                if self.parked:
                    return
                if scenario.learn is not None:
                    await self._evaluate(iteration)
        finally:
            for model in self.models.values():
                await model.close()

    async def _iterate(self, iteration: int) -> None:
        """Play, label, derive rows, update; or as far as that goes without people."""
        await self._play(iteration)
        if self.parked:
            return
        stored = self.store.episodes(self.run, iteration=iteration)
        episodes = [episode for episode in stored if episode.status == "done"]
        labels = self._label(iteration, episodes)
        if self.parked:
            return
        flips = self._flips()
        rows = self._rows(episodes, labels, flips)
        self.store.put_rows(self.run, rows)
        if self.resolved.loaded.scenario.learn is not None:
            await self._learn(iteration, rows, flips)

    # What is known at the start.

    def _begin(self) -> None:
        if self.run in {run.id for run in self.store.runs()}:
            return
        scenario = self.resolved.loaded.scenario.model_dump(mode="json")
        protocol = self.resolved.protocol.hash
        version = superalign.__version__
        run = Run(
            id=self.run,
            scenario=scenario,
            origin=str(self.resolved.loaded.path.resolve()),
            protocol_hash=protocol,
            version=version,
        )
        self.store.put_run(run)
        for name, engine in self.resolved.loaded.scenario.models.items():
            if isinstance(engine, TransformersEngine):
                path = str(weights_folder(self.resolved.loaded, name, engine))
                seats = self.resolved.loaded.scenario.cast.items()
                seat = next((s for s, m in seats if m.model == name and m.learn), "")
                base = PolicyVersion(
                    id=name,
                    seat=seat,
                    parent=None,
                    method="base",
                    config={},
                    rows=None,
                    path=path,
                    iteration=0,
                )
                self.store.put_version(self.run, base)

    @property
    def _seat(self) -> str:
        """The seat whose turns become rows: the one that learns, or else the learner's."""
        cast = self.resolved.loaded.scenario.cast
        return next((seat for seat, member in cast.items() if member.learn), "learner")

    def _trained(self) -> set[str]:
        return {version.id for version in self.store.versions(self.run)}

    def _load_versions(self) -> None:
        """Give the engine every version that an earlier part of this run has trained."""
        for version in self.store.versions(self.run):
            if version.method != "base":
                self._offer(version)

    def _offer(self, version: PolicyVersion) -> None:
        model: Any = self.models[self.resolved.loaded.scenario.cast[version.seat].model]
        model.load(version.id, self.folder / version.path)

    def _policy(self, iteration: int) -> str:
        """The learning seat's version after `iteration` updates."""
        if iteration:
            return f"{self._seat}-{iteration}"
        return self.resolved.loaded.scenario.cast[self._seat].model

    # Play.

    async def _play(self, iteration: int) -> None:
        scenario = self.resolved.loaded.scenario
        if self.resolved.world.cells and "attacker" in self.resolved.protocol.seats:
            if scenario.swap:
                what = "the attacker writes the questions, which have no choices"
                raise self.resolved.loaded.error(("swap",), f"{what}; leave swap out")
            explore = round(scenario.episodes * scenario.attack.explore)
            cells = spread(self.resolved.world.cells, explore)
            await self._wave(iteration, self._attacks(iteration, cells, 0, "explore"))
            if self.parked:  # the archive needs every explored cell
                return
            archive = Archive(self.resolved.world.cells)
            episodes = self.store.episodes(self.run, iteration=iteration)
            archive.add(e for e in episodes if "explore" in e.tags)  # a resumed run has more
            cells = archive.steer(scenario.episodes - explore)
            await self._wave(iteration, self._attacks(iteration, cells, explore, "exploit"))
        else:
            await self._wave(iteration, self._tasks(iteration))

    def _attacks(self, iteration: int, cells: list[str], start: int, tag: str) -> Iterator[Plan]:
        for i, cell in enumerate(cells, start):
            yield self._plan(iteration, i, self.resolved.world.topic(cell), (tag,))

    def _tasks(self, iteration: int) -> Iterator[Plan]:
        scenario = self.resolved.loaded.scenario
        seed = call_seed(scenario.seed, f"tasks {iteration}")
        orders = 2 if scenario.swap else 1
        for i, task in enumerate(self.resolved.world.tasks(scenario.episodes // orders, seed)):
            yield self._plan(iteration, orders * i, task, ())
            if scenario.swap:
                yield self._plan(iteration, orders * i + 1, swapped(task), (SWAPPED,))

    def _plan(self, iteration: int, i: int, task: Task, tags: tuple[str, ...]) -> Plan:
        scenario = self.resolved.loaded.scenario
        index = (iteration - 1) * scenario.episodes + i
        return Plan(
            run=self.run,
            scenario=scenario.name,
            index=index,
            iteration=iteration,
            task=task,
            seed=call_seed(scenario.seed, f"episode {index}"),
            tags=tags,
        )

    async def _wave(self, iteration: int, plans: Iterable[Plan]) -> None:
        scenario = self.resolved.loaded.scenario
        learns = scenario.learn is not None
        policies = {self._seat: self._policy(iteration - 1)} if learns else {}
        cast = build_cast(self.resolved, self.models, policies)
        world, limits = self.resolved.world, scenario.limits
        setting = Setting(
            self.resolved.protocol, self.resolved.params, cast, self.store, world, limits
        )
        over = self.store.ended(self.run)
        todo = (plan for plan in plans if setting.episode_id(plan) not in over)
        played = self.store.count(self.run) - (iteration - 1) * scenario.episodes

        def on_end(episode: Episode) -> None:
            nonlocal played
            if episode.status == "waiting":
                self.parked = True
                return
            played += 1
            self.failed += episode.status == "failed"
            self.progress("play", iteration, played, scenario.episodes, {"failed": self.failed})

        await run_many(setting, todo, on_end, scenario.concurrency)

    # Labels and rows.

    def _label(self, iteration: int, episodes: list[Episode]) -> list[Label]:
        """Labels of this iteration: of people, of a simulated human, or of the control's oracle.

        Where people have yet to answer there are none, and the run is parked.
        """
        scenario = self.resolved.loaded.scenario
        labels, human = scenario.labels, scenario.labels.human
        if labels.control == "oracle":
            return control(episodes)
        mine = {e.id for e in episodes}
        done = [label for label in self.store.labels(self.run) if label.episode in mine]
        if done or human is None:
            return done
        if human.source == "person":
            fresh = self._ask_people(iteration, episodes)
        else:
            rng = self._label_rng(iteration)
            fresh = list(simulate(self._choose(iteration, episodes, rng), human.noise, rng))
        self.store.put_labels(fresh)
        return fresh

    def _choose(self, iteration: int, episodes: list[Episode], rng: random.Random) -> list[Chosen]:
        """This iteration's share of the budget, spent by the policy on what is known so far."""
        scenario, human = self.resolved.loaded.scenario, self.resolved.loaded.scenario.labels.human
        assert human is not None
        quota = human.budget * iteration // scenario.iterations
        quota -= human.budget * (iteration - 1) // scenario.iterations
        return choose(episodes, human, quota, rng, self._flips(), self._seat)

    def _label_rng(self, iteration: int) -> random.Random:
        return random.Random(call_seed(self.resolved.loaded.scenario.seed, f"labels {iteration}"))

    def _ask_people(self, iteration: int, episodes: list[Episode]) -> list[Label]:
        """Labels of every case of this iteration, chosen once; none until all are answered."""
        mine, book = {e.id for e in episodes}, LabelBook.beside(self.store.url)
        asked = [c for c in self.store.cases(self.run) if c.kind == "label" and c.episode in mine]
        if not asked:
            for (episode, critique), why, raters in self._choose(
                iteration, episodes, self._label_rng(iteration)
            ):
                case, shown = label_case(episode, episode.turn(critique.about), why, raters)
                for message in shown:
                    self.store.put_message(message, message.hash)
                asked.append(case)
            self.store.put_cases(asked)
        if any(case.kind == "label" for case in open_cases(self.store, book, self.run)):
            self.parked = True
            return []
        return labels_of(asked, book.answers(self.run))

    def _flips(self) -> FlipRates:
        """The critic's error rates from every audit so far: the critic does not change."""
        human, past = self.resolved.loaded.scenario.labels.human, self.store.labels(self.run)
        audited = sorted({label.episode for label in past})
        return measure_flips(
            self.store.episodes(self.run, ids=audited),
            past,
            self._seat,
            human=human.noise if human else 0.0,
        )

    def _rows(self, episodes: list[Episode], labels: list[Label], flips: FlipRates) -> list[Row]:
        """All rows of an iteration."""
        by_episode: dict[str, list[Label]] = {}
        for label in labels:
            by_episode.setdefault(label.episode, []).append(label)
        prompts = self._prompts(episodes)
        is_control = self.resolved.loaded.scenario.labels.control is not None
        rows = []
        rule = self.resolved.protocol.rule

        def prompt_of(turn: Turn) -> tuple[Message, ...]:
            return tuple(prompts[key] for key in turn.messages)

        for episode in episodes:
            if rule is not None:
                rows += rule(episode, self._seat, prompt_of)
                continue
            exact = episode.facts.get("correct", {}) if is_control else {}
            rows += rows_of(
                episode,
                self._seat,
                prompt_of=prompt_of,
                labels=by_episode.get(episode.id, ()),
                flips=flips,
                rewards={key: float(right) for key, right in exact.items()},
                control=is_control,
            )
        return rows

    def _prompts(self, episodes: list[Episode]) -> dict[str, Message]:
        turns: Iterator[Turn] = (t for e in episodes for t in e.by(self._seat))
        return self.store.messages(key for turn in turns for key in turn.messages)

    # Update.

    async def _learn(self, iteration: int, rows: list[Row], flips: FlipRates) -> None:
        """One update of the learning seat, stored as a new policy version."""
        config, name = self.resolved.loaded.scenario.learn, self._policy(iteration)
        assert config is not None
        chosen = [r for r in standing(self.store, self.run, rows) if r.kind in config.kinds]
        config = config.model_copy(update={"seed": call_seed(config.seed, name) % 2**31})
        parent = next(
            v for v in self.store.versions(self.run) if v.id == self._policy(iteration - 1)
        )
        out = self.folder / "weights" / name
        shutil.rmtree(out, ignore_errors=True)  # what a killed update left
        step = 0

        def progress(metrics: Any) -> None:
            nonlocal step
            step += 1
            self.progress("learn", iteration, step, config.steps, dict(metrics))

        base = self.folder / parent.path  # an absolute path stays as it is
        learn = LEARNERS[config.method]
        metrics = await asyncio.to_thread(learn, base, chosen, config, out, progress)
        version = PolicyVersion(
            id=name,
            seat=self._seat,
            parent=parent.id,
            method=config.method,
            config=config.model_dump(),
            rows=digest(sorted(row.id for row in chosen)),
            path=str(out.relative_to(self.folder)),
            iteration=iteration,
            metrics={**metrics, "rows": len(chosen), "flips": flips.model_dump()},
        )
        self.store.put_version(self.run, version, chosen)
        self._offer(version)

    # Evaluate.

    async def _evaluate(self, iteration: int) -> None:
        """Held-out items, answered greedily by the learning seat's version, all at once."""
        evaluate = self.resolved.loaded.scenario.evaluate
        if evaluate is None or self.store.evaluations(self.run, iteration):
            return
        tasks, world = self.resolved.world.heldout(evaluate.heldout), self.resolved.world
        seat, policy = self._seat, self._policy(iteration)
        member = self.resolved.loaded.scenario.cast[seat]
        model, done = self.models[member.model], 0
        sampling = Sampling(temperature=0.0, max_tokens=member.max_tokens)

        async def one(task: Task) -> Evaluation:
            nonlocal done
            question = task.question.model_copy(update={"topic": ""})  # no prompt tells the cell
            shown = view(seat, question, None, Ask(kind="answer"))
            request = Request(
                messages=model.dialect.render(shown, 0),
                sampling=sampling,
                seed=0,
                policy=policy,
                view=shown,
                episode="",
                nth=0,
                task=task.key,
            )
            completion = await complete(model, request)
            done += 1
            if done % 100 == 0 or done == len(tasks):
                self.progress("evaluate", iteration, done, len(tasks), {})
            return Evaluation(
                iteration=iteration,
                policy=policy,
                item=task.key,
                cell=task.question.topic,
                text=completion.text,
                correct=world.correct(question, completion.text),
                tokens=len(completion.token_ids or ()),
            )

        found = await asyncio.gather(*map(one, tasks))
        self.store.put_evaluations(self.run, found)
