"""What `rejudge`, `fork`, `rescore` and `diff` do."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import count
from pathlib import Path
from typing import Any

import superalign
from superalign.agents import Model
from superalign.protocols.branch import (
    Rejudgement,
    branch_of,
    fork,
    fork_point,
    rejudgements,
    rescore,
    score_of,
)
from superalign.protocols.kernel import play_all
from superalign.protocols.replay import Difference
from superalign.protocols.setting import Setting
from superalign.store import BadInput, Episode, Run, Score, Store, Turn

from .endpoints import probe_all, put_served
from .resolve import Resolved, build_cast, build_models, people_of, resolve
from .scenario import Loaded
from .stored import find_episode, folder_of, open_run, printable, stored_setting

Told = Callable[[int, int], None]
"""Told (done, total) whenever an episode has ended."""


def whoami(author: str | None) -> str:
    """Who asks, as the store will name them."""
    return author or getpass.getuser()


@dataclass
class Branching:
    """A run made of another run's episodes, under its scenario with some keys set otherwise.

    Single use. `live` are the seats that need a model; None means all.
    """

    store: Store
    origin: Run
    folder: Path
    overrides: tuple[str, ...]
    author: str
    reason: str
    live: frozenset[str] | None = None
    models: dict[str, Model] = field(default_factory=dict)

    def resolved(self) -> Resolved:
        """The origin's scenario with the overrides, every name found."""
        path, data = Path(self.origin.origin), self.origin.scenario
        return resolve(Loaded.stored(path, data, self.overrides))

    def begin(self, kind: str, resume: bool, resolved: Resolved) -> str:
        """The id of the run: a new one, or with `resume` the newest of the same scenario."""
        scenario = resolved.loaded.scenario.model_dump(mode="json")
        runs = {run.id: run for run in self.store.runs()}
        names = [f"{self.origin.id}-{kind}-{n}" for n in range(1, len(runs) + 2)]
        same = [n for n in names if n in runs and runs[n].scenario == scenario]
        if resume and same:
            return same[-1]
        if resume:
            raise BadInput(f"--resume: {self.origin.id} has no such {kind}; leave --resume out")
        name = next(name for name in names if name not in runs)
        self.store.put_run(
            Run(
                id=name,
                scenario=scenario,
                origin=self.origin.origin,
                protocol_hash=resolved.protocol.hash,
                version=superalign.__version__,
                parent=self.origin.id,
                author=self.author,
                reason=self.reason,
            )
        )
        return name

    def settings(self, resolved: Resolved, branch: str) -> Callable[[Episode], Setting]:
        """The setting of an episode: seats that learnt speak as the version that spoke in it."""
        people = people_of(resolved, self.store.url, branch)
        self.models = build_models(resolved, self.live, people, self.folder)
        root = self.origin
        while root.parent is not None:
            root = self.store.run(root.parent)
        versions = [v for v in self.store.versions(root.id) if v.method != "base"]
        cast, before = resolved.loaded.scenario.cast, self.origin.scenario["cast"]
        made: dict[tuple[tuple[str, str], ...], Setting] = {}
        offered: set[str] = set()

        def policies(episode: Episode) -> dict[str, str]:
            """Who spoke; for a seat that did not, its newest version by then."""
            newest = {v.seat: v.id for v in versions if v.iteration < episode.iteration}
            own = {v.id for v in versions}
            spoke = {t.seat: t.policy for t in episode.turns if t.policy in own}
            kept = {s for s in cast if s in before and cast[s].model == before[s]["model"]}
            return {s: v for s, v in {**newest, **spoke}.items() if s in kept}

        def setting(episode: Episode) -> Setting:
            seated = policies(episode)
            for version in versions:
                live = self.live is None or version.seat in self.live
                if version.id in set(seated.values()) - offered and live:
                    engine: Any = self.models[cast[version.seat].model]
                    engine.load(version.id, self.folder / version.path)
                    offered.add(version.id)
            key = tuple(sorted(seated.items()))
            if key not in made:
                limits = resolved.loaded.scenario.limits
                made[key] = Setting(
                    resolved.protocol,
                    resolved.params,
                    build_cast(resolved, self.models, seated),
                    self.store,
                    resolved.world,
                    limits,
                )
            return made[key]

        return setting

    async def greet(self, resolved: Resolved, branch: str) -> None:
        """Ask the endpoints what they honour. Raises BadInput where the scenario needs more."""
        abilities = await probe_all(resolved.loaded, self.models)
        put_served(self.store, branch, resolved.loaded, abilities)

    async def close(self) -> None:
        for model in self.models.values():
            await model.close()


def rejudge_run(
    run: str,
    seat: str,
    overrides: tuple[str, ...],
    author: str | None,
    reason: str,
    resume: bool,
    store_url: str | None,
    told: Told,
) -> dict[str, Any]:
    """Judge every episode of a run again: only `seat` calls a model."""
    with open_run(run, store_url, write=True) as (store, name, folder):
        origin, live = store.run(name), frozenset({seat})
        work = Branching(store, origin, folder, overrides, whoami(author), reason, live)
        resolved = work.resolved()
        if seat not in resolved.protocol.seats:
            seats = ", ".join(resolved.protocol.seats)
            raise BadInput(f"--seat {seat}: {resolved.protocol.name} has {seats}")
        branch = work.begin("rejudge", resume, resolved)
        found = asyncio.run(_rejudge(work, resolved, branch, seat, told))
        scores = {(score.episode, score.name) for score in store.scores(name)}
        fresh = [score_of(e, work.author, reason) for e in store.episodes(branch)]
        store.put_scores(score for score in fresh if (score.episode, branch) not in scores)
        return {
            "run": branch,
            "parent": name,
            "episodes": store.count(branch),
            "failed": store.count(branch, "failed"),
            "divergences": [difference.model_dump() for difference in found],
            **_changes(store, name, fresh),
        }


async def _rejudge(
    work: Branching, resolved: Resolved, branch: str, seat: str, told: Told
) -> list[Difference]:
    store, total = work.store, work.store.count(work.origin.id)
    found: list[Difference] = []
    setting_of, open_ones = work.settings(resolved, branch), store.unfinished(branch)
    over = {parent_id(e) for e in store.episodes(branch)}
    done = count(len(over) + 1)
    stages = rejudgements(
        (told_of for told_of in store.load(work.origin.id) if told_of[0].id not in over),
        branch,
        seat,
        setting_of,
        lambda id: store.journal(branch, [id])[id] if id in open_ones else (),
    )

    begun: dict[str, Rejudgement] = {}

    def watched() -> Iterator[Rejudgement]:
        for stage in stages:
            begun[stage.id] = stage
            yield stage

    def on_end(episode: Episode) -> None:
        told(next(done), total)
        if (divergence := begun.pop(episode.id).divergence) is not None:
            found.append(divergence)

    try:
        await work.greet(resolved, branch)
        await play_all(store, watched(), on_end, resolved.loaded.scenario.concurrency)
    finally:
        await work.close()
    return found


def parent_id(episode: Episode) -> str:
    return (episode.parent or "").rpartition("/")[2]


def _changes(store: Store, run: str, scores: Iterable[Score]) -> dict[str, Any]:
    """How many verdicts the other judge changed, over episodes that both could judge."""
    old = {e.id: e.verdict for e in store.episodes(run) if e.status == "done"}
    new = {score.episode: score.verdict for score in scores if score.error is None}
    both = [(old[i], new[i]) for i in old.keys() & new.keys()]
    changed = sum(a.value != b.value for a, b in both if a and b)
    return {"both": len(both), "changed": changed}


def fork_episode(
    ref: str,
    at: str,
    overrides: tuple[str, ...],
    author: str | None,
    reason: str,
    resume: bool,
    store_url: str | None,
) -> dict[str, Any]:
    """Go on live from one turn of a stored episode, in a new run that names its parent."""
    url, run, id = find_episode(ref, store_url)
    with Store.open(url, write=True) as store:
        ((episode, journal),) = store.load(run, [id])
        at = fork_point(journal, at)
        folder = folder_of(store, run)
        work = Branching(store, store.run(run), folder, overrides, whoami(author), reason)
        resolved = work.resolved()
        branch = work.begin("fork", resume, resolved)

        async def play() -> list[Episode]:
            ended: list[Episode] = []
            setting = work.settings(resolved, branch)(episode)
            try:
                await work.greet(resolved, branch)
                id = branch_of(episode, branch, at).id or ""
                known = store.journal(branch, [id])[id]
                stage = fork(setting, episode, journal, at, branch, known)
                await play_all(store, [stage], ended.append, 1)
            finally:
                await work.close()
            return ended

        (ended,) = asyncio.run(play())
    return {
        "run": branch,
        "episode": ended.ref,
        "parent": ended.parent,
        "at": at,
        "status": ended.status,
        "error": ended.error,
        "verdict": ended.verdict.value if ended.verdict else None,
        "store": url.removeprefix("sqlite:///"),
    }


def rescore_run(run: str, author: str | None, reason: str, store_url: str | None) -> dict[str, Any]:
    """Apply the protocol's `score`, as its source is now, to every stored episode of a run."""
    with open_run(run, store_url, write=True) as (store, name, _):
        setting, taken = stored_setting(store, name), {s.name for s in store.scores(name)}
        pass_ = next(f"rescore-{n}" for n in count(1) if f"rescore-{n}" not in taken)
        changed = episodes = 0
        scores = []
        for episode in store.episodes(name):
            scores.append(rescore(setting, episode, pass_, whoami(author), reason))
            episodes += 1
            changed += scores[-1].rewards != episode.rewards
        store.put_scores(scores)
    return {"run": name, "score": pass_, "episodes": episodes, "changed": changed}


def diff_episodes(a: str, b: str, store_url: str | None) -> tuple[dict[str, Any], str]:
    """Two branches turn by turn: how many turns they share, and then what each said."""
    (left, right) = (_episode(ref, store_url) for ref in (a, b))
    pairs = paired(left.turns, right.turns)
    shared = sum(_same(x, y) for x, y in pairs)
    facts = {
        "a": left.ref,
        "b": right.ref,
        "shared": shared,
        "turns": [
            {"a": x and {"turn": x.key, "text": x.text}, "b": y and {"turn": y.key, "text": y.text}}
            for x, y in pairs
            if not _same(x, y)
        ],
        "verdicts": [e.verdict.value if e.verdict else None for e in (left, right)],
    }
    return facts, printable(_as_text(facts))


def paired(a: Iterable[Turn], b: Iterable[Turn]) -> list[tuple[Turn | None, Turn | None]]:
    """Turns of two branches side by side, matched by call key; None where one has no such turn."""
    left, right = {t.key: t for t in a}, {t.key: t for t in b}
    return [(left.get(key), right.get(key)) for key in sorted(left.keys() | right.keys())]


def _same(x: Turn | None, y: Turn | None) -> bool:
    return x is not None and y is not None and (x.text, x.error) == (y.text, y.error)


def _episode(ref: str, store_url: str | None) -> Episode:
    url, run, id = find_episode(ref, store_url)
    with Store.open(url) as store:
        return next(store.episodes(run, ids=[id]))


def _as_text(facts: dict[str, Any]) -> str:
    lines = [f"--- {facts['a']}", f"+++ {facts['b']}", f"{facts['shared']} turns are the same"]
    for pair in facts["turns"]:
        lines.append(f"\n@@ {(pair['a'] or pair['b'])['turn']}")
        old, new = ((pair[s] or {"text": ""})["text"].splitlines() for s in ("a", "b"))
        for what, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if what == "equal":
                lines += [f"  {line}" for line in old[i:j]]
            else:
                lines += [f"- {line}" for line in old[i:j]] + [f"+ {line}" for line in new[k:m]]
    before, after = facts["verdicts"]
    return "\n".join([*lines, f"\nverdict: {before} | {after}"])
