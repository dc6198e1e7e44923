"""What votes on answers say, and what a search for a better answer teaches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from superalign.store.records import Critique, Episode, Row, Turn

from .protocol import PromptOf


def values(critiques: Iterable[Critique]) -> dict[str, float]:
    """Answer -> share of the votes on it that accept it."""
    votes: dict[str, list[bool]] = defaultdict(list)
    for vote in critiques:
        votes[vote.about].append(vote.fault is None)
    return {key: sum(accepted) / len(accepted) for key, accepted in votes.items()}


def rejecting(critiques: Iterable[Critique], key: str) -> str:
    """The turn of the first vote that rejects an answer."""
    return next(vote.turn for vote in critiques if vote.about == key and vote.fault is not None)


def refined_pair(episode: Episode) -> tuple[Turn, Turn] | None:
    """The refinement that the search ended with, and the failing answer that it began with."""
    if episode.verdict is None or episode.verdict.value != "refined":
        return None
    value = values(episode.critiques)
    better = next(turn for turn in episode.by("refiner") if value[turn.key] > 0.5)
    worse = next(turn for turn in episode.by("learner") if value[turn.key] < 0.5)
    return better, worse


def refining_rows(episode: Episode, seat: str, prompt_of: PromptOf) -> list[Row]:
    """Rows of a seat: the learner's pair (refined, original), the refiner's last refinement, and
    of the critic, where votes on an answer differ, the first that agrees with most of them."""
    pair = refined_pair(episode)
    if seat == "critic":
        return [_copied(episode, vote, vote, prompt_of) for vote in _telling(episode)]
    if pair is None or not all(turn.finish == "stop" for turn in pair):
        return []
    better, worse = pair
    said = episode.turn(
        next(c.turn for c in episode.critiques if c.about == better.key and not c.fault)
    )
    if seat == "refiner":
        return [_copied(episode, better, said, prompt_of)]
    return [
        Row(
            kind="pref",
            seat=worse.seat,
            prompt=prompt_of(worse),
            replies=(better.text, worse.text),
            source=said.source,
            judge=said.policy,
            turns=_refs(episode, better, worse, said),
            iteration=episode.iteration,
        )
    ]


def _telling(episode: Episode) -> list[Turn]:
    """Votes that agree with most of those on an answer on which votes differ, one an answer."""
    found = {}
    for vote in episode.critiques:
        value = values(c for c in episode.critiques if c.about == vote.about)[vote.about]
        if value not in (0, 0.5, 1) and (vote.fault is None) == (value > 0.5):
            found.setdefault(vote.about, episode.turn(vote.turn))
    return [turn for turn in found.values() if turn.finish == "stop"]


def _copied(episode: Episode, turn: Turn, judge: Turn, prompt_of: PromptOf) -> Row:
    return Row(
        kind="sft",
        seat=turn.seat,
        prompt=prompt_of(turn),
        replies=(turn.text,),
        source=judge.source,
        judge=judge.policy,
        turns=_refs(episode, turn, judge),
        iteration=episode.iteration,
    )


def _refs(episode: Episode, *turns: Turn) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{episode.ref}/{turn.key}" for turn in turns))
