"""An iteration's second half: episodes and labels -> rows of every learning seat -> new versions.

A protocol's own rule comes first. Where it has none, or makes no rows of this seat, a seat that
answers gets the rows that critics and labels say (learners/rows.py), a seat that criticised
labelled answers those of whether it agrees (learners/critics.py), and any other seat those of what
it earned (learners/by_score.py).
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from superalign.agents.torch_thread import TORCH
from superalign.learners import LEARNERS, FlipRates
from superalign.learners.by_score import by_score, scored
from superalign.learners.critics import critic_rows
from superalign.learners.rows import ANSWERS
from superalign.learners.rows import rows as rows_of
from superalign.protocols import Protocol
from superalign.protocols.setting import call_seed
from superalign.store import Episode, Label, PolicyVersion, Row, Store, Turn
from superalign.store.lineage import standing
from superalign.store.records import Message, digest

from .policies import newest, spoke_as
from .resolve import Resolved

Event = Literal["play", "learn", "evaluate"]
Progress = Callable[[Event, int, int, int, dict[str, Any]], None]
"""Told (what, iteration, done, total, facts) whenever something has moved."""

AT_ONCE = 200
"""Episodes whose prompts are held together."""
KEPT = "none"
"""Method of a version that is its parent under another name."""


@dataclass(frozen=True)
class Played:
    """An iteration's finished episodes, read anew from the store whenever they are gone through:
    there may be more of them than memory holds."""

    store: Store
    run: str
    iteration: int

    def __iter__(self) -> Iterator[Episode]:
        stored = self.store.episodes(self.run, iteration=self.iteration)
        return (episode for episode in stored if episode.status == "done")


class Own:
    """Episodes in which a seat spoke as one version, with the prompts of its turns at hand."""

    def __init__(
        self, store: Store, seat: str, version: str | None, episodes: Iterable[Episode]
    ) -> None:
        """`version` None: whoever spoke."""
        self._store, self._seat, self._version, self._episodes = store, seat, version, episodes
        self._prompts: dict[str, Message] = {}

    def __iter__(self) -> Iterator[Episode]:
        """A few hundred at a time, with the prompts of those alone."""
        seat, version = self._seat, self._version
        spoke = (e for e in self._episodes if version is None or spoke_as(e, seat, version))
        while group := list(islice(spoke, AT_ONCE)):
            self.remember(group)
            yield from group

    def remember(self, episodes: Sequence[Episode]) -> None:
        """Look up the prompts of these episodes, and forget all others."""
        turns = (turn for episode in episodes for turn in episode.by(self._seat))
        self._prompts = self._store.messages(key for turn in turns for key in turn.messages)

    def prompt_of(self, turn: Turn) -> tuple[Message, ...]:
        return tuple(self._prompts[key] for key in turn.messages)


@dataclass(frozen=True)
class Updating:
    """Rows and updates of one run."""

    run: str
    resolved: Resolved
    store: Store
    folder: Path
    progress: Progress

    def rows(
        self,
        iteration: int,
        seat: str,
        episodes: Iterable[Episode],
        labels: Sequence[Label],
        flips: FlipRates,
    ) -> Iterator[Row]:
        """All rows of one seat in an iteration, from the episodes in which its newest version
        spoke. Goes through them more than once, so they must not be an iterator."""
        scenario, rule = self.resolved.loaded.scenario, self.resolved.protocol.rule
        own = Own(self.store, seat, newest(scenario, iteration - 1).get(seat), episodes)
        if rule is not None:
            found = False
            for row in (row for episode in own for row in rule(episode, seat, own.prompt_of)):
                found = True
                yield row
            if found:
                return
        by_episode: dict[str, list[Label]] = {}
        for label in labels:
            by_episode.setdefault(label.episode, []).append(label)
        if not answers(seat, own):
            if seat in scenario.learning:  # what it earned teaches nobody else
                yield from self._unanswering(seat, own, by_episode, flips)
            return
        control = scenario.labels.control is not None
        for episode in own:
            exact = episode.facts.get("correct", {}) if control else {}
            yield from rows_of(
                episode,
                seat,
                prompt_of=own.prompt_of,
                labels=by_episode.get(episode.id, ()),
                flips=flips,
                rewards={key: float(right) for key, right in exact.items()},
                control=control,
            )

    def _unanswering(
        self, seat: str, own: Own, by_episode: Mapping[str, list[Label]], flips: FlipRates
    ) -> list[Row]:
        """Rows of a seat that criticised what was labelled, or else of what it earned."""
        given = {"prompt_of": own.prompt_of, "flips": flips}
        told = ((episode, by_episode.get(episode.id, ())) for episode in own)
        if found := [r for e, some in told for r in critic_rows(e, seat, labels=some, **given)]:
            return found
        by_truth = asks_truth(self.resolved.protocol, seat, own)
        turns = scored(episodes := list(own), seat, by_truth)
        own.remember(episodes)
        control = self.resolved.loaded.scenario.labels.control is not None
        return by_score(turns, prompt_of=own.prompt_of, control=control)

    async def learn(
        self, iteration: int, seat: str, rows: Sequence[Row], flips: FlipRates
    ) -> PolicyVersion:
        """One update of a seat, stored as a new policy version. Without rows that its method
        learns from, the seat keeps its last one, under the new name."""
        scenario, name = self.resolved.loaded.scenario, f"{seat}-{iteration}"
        config = scenario.learning[seat]
        chosen = [r for r in standing(self.store, self.run, rows) if r.kind in config.kinds]
        config = config.model_copy(update={"seed": call_seed(config.seed, name) % 2**31})
        first = scenario.cast[seat].model
        last = newest(scenario, iteration - 1)[seat]
        held = {v.id: v for v in self.store.versions(self.run)}
        if not any(row.kind in config.needs() for row in chosen):
            return self._keep(iteration, seat, held[last])
        parent = held[first if config.from_base else last]
        out = self.folder / "weights" / name
        shutil.rmtree(out, ignore_errors=True)  # what a killed update left
        step, total = 0, config.steps_in(iteration)

        def progress(metrics: Mapping[str, float]) -> None:
            nonlocal step
            step += 1
            self.progress("learn", iteration, step, total, dict(metrics))

        base = self.folder / parent.path  # an absolute path stays as it is
        learn = LEARNERS[config.method]
        work = partial(learn, base, chosen, config, out, progress)
        metrics = await asyncio.get_running_loop().run_in_executor(TORCH, work)
        version = PolicyVersion(
            id=name,
            seat=seat,
            parent=parent.id,
            method=config.method,
            config=config.model_dump(),
            rows=digest(sorted(row.id for row in chosen)),
            path=str(out.relative_to(self.folder)),
            iteration=iteration,
            metrics={**metrics, "rows": len(chosen), "flips": flips.model_dump()},
        )
        self.store.put_version(self.run, version, chosen)
        return version

    def _keep(self, iteration: int, seat: str, last: PolicyVersion) -> PolicyVersion:
        name = f"{seat}-{iteration}"
        kept = {"id": name, "seat": seat, "parent": last.id, "method": KEPT, "iteration": iteration}
        version = PolicyVersion(**kept, config={}, rows=None, path=last.path)
        self.store.put_version(self.run, version)
        return version


def answers(seat: str, episodes: Iterable[Episode]) -> bool:
    """Whether a seat answers questions in these episodes."""
    return any(turn.kind in ANSWERS for episode in episodes for turn in episode.by(seat))


def asks_truth(protocol: Protocol, seat: str, episodes: Iterable[Episode]) -> bool:
    """Whether what a seat earns is told by the truth: whether in any of these episodes another
    truth would have changed it. What cannot be scored under another truth counts as told by it."""
    done = (episode for episode in episodes if episode.status == "done")
    return any(
        _earned(protocol, seat, other) != episode.rewards.get(seat)
        for episode in done
        for other in _other_truths(episode)
    )


def _earned(protocol: Protocol, seat: str, episode: Episode) -> float | str | None:
    try:
        return protocol.earned(episode).get(seat)
    except Exception as error:  # a score may assume that the truth is possible
        return str(error)


def _other_truths(episode: Episode) -> Iterator[Episode]:
    """The episode as it would be if all were right, if all were wrong, and if each judgement of
    the truth were the other way round."""

    def all_right(key: str, value: Any) -> Any:
        return None if key == "fault" else True

    def all_wrong(key: str, value: Any) -> Any:
        return 1 if key == "fault" else False

    def turned(key: str, value: Any) -> Any:
        return (1 if value is None else None) if key == "fault" else not value

    for change in (all_right, all_wrong, turned):
        facts = dict(episode.facts)
        for key in {"correct", "fault"} & facts.keys():
            facts[key] = {turn: change(key, value) for turn, value in facts[key].items()}
        if facts.get("settled") is not None:
            facts["settled"] = change("settled", facts["settled"])
        choices = episode.question.choices
        others = [choice for choice in choices if choice != episode.truth] or [""]
        yield episode.model_copy(update={"facts": facts, "truth": others[0]})
