"""The round loop: play -> labels -> rows -> update -> evaluate, as often as the scenario says.

Every stage first looks into the store for what it has already done, so that a killed run goes on
where it stopped. What an iteration plays follows from the store alone, never from the clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import superalign
from superalign.agents import Model
from superalign.protocols.kernel import run_many
from superalign.protocols.setting import Plan, Setting, call_seed
from superalign.store import Episode, Label, PolicyVersion, Row, Run, Store, Task

from .archive import Archive, spread
from .asking import Asking
from .endpoints import probe_all, put_served, start_all
from .engines import VllmEngine
from .exam import HeldOut
from .items import SWAPPED, swapped
from .policies import drawn, due, newest, pools
from .resolve import Resolved, build_cast, build_models, people_of, weights_folder
from .scenario import TransformersEngine
from .updating import AT_ONCE, KEPT, Played, Progress, Updating
from .watching import Watch


@dataclass
class Experiment:
    """One run of one scenario in one folder. Single use."""

    run: str
    resolved: Resolved
    store: Store
    folder: Path
    progress: Progress
    models: dict[str, Model] = field(default_factory=dict)
    offered: set[str] = field(default_factory=set)
    """Trained versions that the engines hold."""
    alarms: list[str] = field(default_factory=list)
    """What fired last."""
    stopped: list[str] = field(default_factory=list)
    """The limits that ended it: it goes on when they are loosened."""
    kept: list[str] = field(default_factory=list)
    """Updates that were none, for want of rows."""
    lacks: list[str] = field(default_factory=list)
    """What endpoints accept and do not honour."""
    failed: int = 0
    parked: bool = False
    """Whether it stopped because people are wanted: to go on, answer and run it again."""

    @cached_property
    def watch(self) -> Watch:
        return Watch(self.run, self.store, self.folder, self.resolved.loaded.scenario)

    @cached_property
    def asking(self) -> Asking:
        return Asking(self.run, self.resolved.loaded.scenario, self.store)

    async def go(self) -> None:
        """Run every iteration, from what the store already holds, until people are wanted or a
        limit is passed."""
        scenario = self.resolved.loaded.scenario
        self._check_swap()
        people = people_of(self.resolved, self.store.url, self.run)
        self.models = build_models(self.resolved, people=people, folder=self.folder)
        try:
            await start_all(self.resolved.loaded, self.models)
            abilities = await probe_all(self.resolved.loaded, self.models)
            lacking = ((name, able.lacks) for name, able in abilities.items() if able.lacks)
            self.lacks = [f"{name}: {', '.join(lacks)}" for name, lacks in lacking]
            self._begin()
            put_served(self.store, self.run, self.resolved.loaded, abilities)
            await self._evaluate(0)
            for iteration in range(1, scenario.iterations + 1):
                if not scenario.learning or self._left(iteration):
                    await self._iterate(iteration)
                if self.parked or self.stopped:
                    return
                if scenario.learning:
                    await self._evaluate(iteration)
        finally:
            for model in self.models.values():
                await model.close()

    async def _iterate(self, iteration: int) -> None:
        """Play, label, derive rows, update; or as far as that goes without people."""
        await self._play(iteration)
        if self.parked:
            return
        episodes = Played(self.store, self.run, iteration)
        scenario, labels = self.resolved.loaded.scenario, self.asking.labels(iteration, episodes)
        if labels is not None and scenario.learning:
            labels = self._heed(iteration, episodes, labels)
        self.parked = labels is None
        if labels is None or self.stopped:
            return
        flips = self.asking.flips(iteration)
        update = Updating(self.run, self.resolved, self.store, self.folder, self.progress)
        seats = due(scenario, iteration) or [self._seat]
        rows: dict[str, list[Row]] = {}
        for seat in seats:
            found = update.rows(iteration, seat, episodes, labels, flips)
            while some := list(islice(found, AT_ONCE)):
                self.store.put_rows(self.run, some)
                if seat in scenario.learning:
                    rows.setdefault(seat, []).extend(some)
        await self._free()
        for seat in self._left(iteration):
            version = await update.learn(iteration, seat, rows.get(seat, []), flips)
            if version.method == KEPT:
                self.kept.append(f"{version.id} is {version.parent}: it had no rows to learn from")

    async def _free(self) -> None:
        """Let servers of this machine give their memory to whoever learns."""
        for name, model in self.models.items():
            if isinstance(self.resolved.loaded.scenario.models[name], VllmEngine):
                server: Any = model
                await server.rest()

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
            if isinstance(engine, TransformersEngine | VllmEngine):
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
    def _attacked(self) -> bool:
        """Whether an attacker writes the questions, cell by cell."""
        return bool(self.resolved.world.cells) and "attacker" in self.resolved.protocol.seats

    def _check_swap(self) -> None:
        """Raises BadInput."""
        if self._attacked and self.resolved.loaded.scenario.swap:
            what = "the attacker writes the questions, which have no choices"
            raise self.resolved.loaded.error(("swap",), f"{what}; leave swap out")

    @property
    def _seat(self) -> str:
        """The seat that is tested and that people label."""
        return self.resolved.loaded.scenario.tested

    def _left(self, iteration: int) -> list[str]:
        """The seats that an iteration has yet to update."""
        made = {version.id for version in self.store.versions(self.run)}
        scenario = self.resolved.loaded.scenario
        return [s for s in due(scenario, iteration) if f"{s}-{iteration}" not in made]

    def _offer(self, wanted: Iterable[str]) -> None:
        """Give the engines the trained versions that are about to speak, and take the rest."""
        wanted = set(wanted)
        for version in self.store.versions(self.run):
            if version.method == "base":
                continue
            model: Any = self.models[self.resolved.loaded.scenario.cast[version.seat].model]
            if version.id in self.offered and version.id not in wanted:
                model.unload(version.id)
                self.offered.remove(version.id)
            elif version.id in wanted and version.id not in self.offered:
                model.load(version.id, self.folder / version.path)
                self.offered.add(version.id)

    def _policy(self, updates: int) -> str:
        """The tested seat's version after so many iterations."""
        scenario = self.resolved.loaded.scenario
        return newest(scenario, updates).get(self._seat) or scenario.cast[self._seat].model

    # Play.

    async def _play(self, iteration: int) -> None:
        scenario = self.resolved.loaded.scenario
        if self._attacked:
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
        pool = pools(scenario, iteration)
        self._offer(version for versions in pool.values() for version in versions)
        played = self.store.count(self.run) - (iteration - 1) * scenario.episodes

        def on_end(episode: Episode) -> None:
            nonlocal played
            if episode.status == "waiting":
                self.parked = True
                return
            played += 1
            self.failed += episode.status == "failed"
            self.progress("play", iteration, played, scenario.episodes, {"failed": self.failed})

        for policies, some in self._tables(iteration, plans, drawn_from=pool):
            setting = Setting(
                self.resolved.protocol,
                self.resolved.params,
                build_cast(self.resolved, self.models, policies),
                self.store,
                self.resolved.world,
                scenario.limits,
            )
            await run_many(setting, self._unplayed(setting, some), on_end, scenario.concurrency)

    def _unplayed(self, setting: Setting, plans: Iterable[Plan]) -> Iterator[Plan]:
        """Plans whose episodes have not ended, a few hundred looked up at a time."""
        left = iter(plans)
        while some := {setting.episode_id(plan): plan for plan in islice(left, AT_ONCE)}:
            over = self.store.ended(self.run, list(some))
            yield from (plan for id, plan in some.items() if id not in over)

    def _tables(
        self, iteration: int, plans: Iterable[Plan], drawn_from: dict[str, list[str]]
    ) -> Iterator[tuple[dict[str, str], Iterable[Plan]]]:
        """Plans by who plays them. Where there is no choice they stay a stream."""
        if all(len(versions) == 1 for versions in drawn_from.values()):
            yield {seat: version for seat, (version,) in drawn_from.items()}, plans
            return
        scenario = self.resolved.loaded.scenario
        seated = ((sorted(drawn(scenario, iteration, p.seed).items()), p) for p in plans)
        for policies, some in groupby(sorted(seated, key=lambda s: s[0]), key=lambda s: s[0]):
            yield dict(policies), [plan for _, plan in some]

    # What has gone wrong.

    def _heed(
        self, iteration: int, episodes: Iterable[Episode], labels: list[Label]
    ) -> list[Label] | None:
        """Look at the panel. A limit that was passed ends the run. An alarm that pauses parks it
        once, for as many more labels as an iteration has; None until people have given them."""
        scenario = self.resolved.loaded.scenario
        fired, passed = self.watch.look(iteration)
        self.stopped = [str(limit) for limit in passed]
        if not fired:
            return labels
        is_new, human = self.watch.is_new(iteration, fired), scenario.labels.human
        self.alarms = [str(alarm) for alarm in fired]
        if scenario.alarms == "tell" or self.stopped:
            return labels
        if human is None or human.source != "person":
            return None if is_new else labels
        return self.asking.more(iteration, episodes, labels, ask=is_new)

    # Evaluate.

    @cached_property
    def held_out(self) -> HeldOut | None:
        """The test that the scenario asks for."""
        scenario, world = self.resolved.loaded.scenario, self.resolved.world
        if scenario.evaluate is None:
            return None
        member, tasks = scenario.cast[self._seat], world.heldout(scenario.evaluate.heldout)
        model = self.models[member.model]
        return HeldOut(self.run, self.store, world, self._seat, member, model, tasks)

    async def _evaluate(self, iteration: int) -> None:
        """Held-out items, answered greedily by the learning seat's version."""
        test = self.held_out
        if test is None or not test.left(iteration):
            return
        policy, cap = self._policy(iteration), self.resolved.loaded.scenario.concurrency
        self._offer([policy])

        def told(done: int, total: int) -> None:
            if done % 100 == 0 or done == total:
                facts = {"failed": len(test.failed[iteration])}
                self.progress("evaluate", iteration, done, total, facts)

        await test.ask(iteration, policy, cap, told)
