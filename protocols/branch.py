"""Branches: stored episodes judged again by one seat, or gone on with from one turn.

Each becomes an episode of a run of its own that names its parent. Turns that are taken over are
copied, so that a branch is complete in itself: it replays, verifies and teaches like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from superalign.store.errors import BadInput, Divergence
from superalign.store.records import Episode, Score, digest
from superalign.store.store import Entry

from .replay import DIVERGED, Difference, difference, plan_of
from .setting import Plan, Setting
from .stage import Stage


class Rejudgement(Stage):
    """A stage on which one seat speaks anew and all others say what they said.

    Where another seat would have to say something new, it fails and says so: its episode is no
    score of zero, and the first divergence stands in `divergence`.
    """

    divergence: Difference | None = None

    async def play(self) -> Episode:
        try:
            return await super().play()
        except Divergence as found:
            error = f"{DIVERGED}{found.turn}: {found.what}"
            episode = self.close(None, error, 0.0)
            self.divergence = difference(episode, found.turn, found.what, found)
            return episode


def rejudgements(
    told: Iterable[tuple[Episode, list[Entry]]],
    run: str,
    seat: str,
    setting_of: Callable[[Episode], Setting],
    known: Callable[[str], Sequence[Entry]] = lambda id: (),
) -> Iterator[Rejudgement]:
    """Stages in which `seat` judges stored episodes again, in the run `run`.

    `told` are episodes with their journals (`Store.load`), `setting_of` gives the setting of one,
    `known` the turns that a killed attempt at an episode of this run has already journalled.
    """
    for episode, journal in told:
        plan = branch_of(episode, run, None)
        past = [entry for entry in journal if entry.turn.seat != seat]
        own, live = known(plan.id or ""), frozenset({seat})
        yield Rejudgement(setting_of(episode), plan, own, past, live)


def fork(
    setting: Setting,
    episode: Episode,
    journal: Sequence[Entry],
    at: str,
    run: str,
    known: Sequence[Entry] = (),
) -> Stage:
    """A stage that goes on live from the turn `at`, a call key; what came before it is copied.

    `known` are the turns that a killed attempt has already journalled.
    """
    past = [entry for entry in journal if entry.turn.key < at]
    return Stage(setting, branch_of(episode, run, at), known, past)


def fork_point(journal: Sequence[Entry], at: str) -> str:
    """The call key of a turn that is given by its key, or by its number from 1. Or BadInput."""
    keys = [entry.turn.key for entry in journal]
    if at.isdigit() and 1 <= int(at) <= len(keys):
        return keys[int(at) - 1]
    if at not in keys:
        raise BadInput(
            f"--at {at}: there is no such turn; give a number up to {len(keys)} or a key"
        )
    return at


def branch_of(episode: Episode, run: str, at: str | None) -> Plan:
    """The plan of an episode's branch in another run."""
    what = {"run": run, "id": digest(episode.ref, run, at, size=8), "parent": episode.ref}
    return plan_of(episode).model_copy(update={**what, "fork": at})


def score_of(episode: Episode, author: str, reason: str) -> Score:
    """What a re-judged episode says of its parent, kept beside the parent's own score."""
    run, _, parent = (episode.parent or "").rpartition("/")
    return Score(
        run=run,
        episode=parent,
        name=episode.run,
        author=author,
        reason=reason,
        verdict=episode.verdict,
        rewards=episode.rewards,
        error=episode.error,
    )


def rescore(setting: Setting, episode: Episode, name: str, author: str, reason: str) -> Score:
    """Apply a protocol's `score`, as it is now, to a stored episode; a failed one has none."""
    rewards, error = {}, episode.error
    if episode.status == "done":
        try:
            rewards = setting.protocol.earned(episode)
        except Exception as raised:  # of the protocol's code
            error = f"{type(raised).__name__}: {raised}"
    return Score(
        run=episode.run,
        episode=episode.id,
        name=name,
        author=author,
        reason=reason,
        verdict=episode.verdict,
        rewards=rewards,
        error=error,
    )
