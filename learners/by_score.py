"""Transcripts to training rows: the rule for seats that do not answer, by what they earned.

It serves attackers, critics and judges: a seat that is asked the same thing in many episodes, and
whose turns are as good as what the protocol's `score` gave it there. A prompt is the same when its
messages are. Of a text that was written several times under one prompt the mean counts, so that
what hits once in ten times is no better than it is.

`flip_prob` is left at 0 although judges err, for nobody has measured how often these rewards are
wrong. `FlipRates` tell it of a critic's word on one answer. What a seat earns rests on several such
words at once (an attack hits when the first answer and half of the fresh ones are rejected), or on
a verdict, which no audit labels; which of them decided only the protocol knows. So methods that ask
for `flip_prob` take these rows at their word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from statistics import fmean
from typing import Any, NamedTuple

from superalign.store.errors import BadInput
from superalign.store.records import Episode, Row, Source, Turn, worst

from .rows import Kind, PromptOf


class Scored(NamedTuple):
    """One turn, what it earned, and on whose word."""

    turn: Turn
    reward: float
    source: Source
    judge: str
    refs: tuple[str, ...]
    """References of the turn and of those that judged."""
    iteration: int


class Text(NamedTuple):
    """What was written under one prompt, once or more often, and its mean reward."""

    reward: float
    times: tuple[Scored, ...]


def scored(episodes: Iterable[Episode], seat: str, by_truth: bool = False) -> list[Scored]:
    """The seat's whole turns in finished episodes, each with what the seat earned there.

    An unscored seat is left out: that is not zero. The judge is the seat of the verdict;
    `by_truth` says that the score asked the truth, which makes the oracle the judge.
    """
    found = []
    for episode in episodes:
        reward = episode.rewards.get(seat)
        if episode.status != "done" or reward is None:
            continue
        judged = _judging(episode)
        source = "oracle" if by_truth else worst(t.source for t in judged or episode.turns)
        judge = "oracle" if by_truth else " + ".join(dict.fromkeys(t.policy for t in judged))
        for turn in episode.by(seat):
            if turn.error is None and turn.finish == "stop":
                keys = dict.fromkeys((turn.key, *(t.key for t in judged)))
                refs = tuple(f"{episode.ref}/{key}" for key in keys)
                found.append(
                    Scored(turn, reward, source, judge or "score", refs, episode.iteration)
                )
    return found


def by_score(
    turns: Sequence[Scored],
    *,
    prompt_of: PromptOf,
    control: bool = False,
    max_pairs: int = 64,
) -> list[Row]:
    """All rows of one seat's turns in an iteration, prompt by prompt: `sft`, `pref`, `reward`.

    sft     one per text that earned more than the prompt's turns did on average.
    pref    of two texts the one that earned more, at most `max_pairs` a prompt; pairs come first
            that use new texts.
    reward  one per turn, with what it earned.

    Rows whose source is the oracle are refused unless `control` says that this arm is a control.
    """
    if any(turn.source == "oracle" for turn in turns) and not control:
        raise BadInput(
            f"{turns[0].turn.seat}: what it earns is told by source='oracle', the truth itself, "
            "which trains control arms only: add `labels: {control: oracle}`, or do not let this "
            "seat learn"
        )
    prompts: dict[tuple[str, ...], list[Scored]] = defaultdict(list)
    for turn in turns:
        prompts[turn.turn.messages].append(turn)
    found = []
    for same in prompts.values():
        texts, mean = _texts(same), fmean(turn.reward for turn in same)
        found += [_row("sft", prompt_of, text) for text in texts if text.reward > mean]
        found += [_row("pref", prompt_of, *pair) for pair in _pairs(texts, max_pairs)]
        for turn in same:
            told = {"rewards": (turn.reward,), "token_ids": turn.turn.token_ids}
            found.append(_row("reward", prompt_of, Text(turn.reward, (turn,)), **told))
    return found


def _judging(episode: Episode) -> list[Turn]:
    """The turns on whose word an episode was scored: the one that decided, or all of the seat
    whose words the protocol's rule counted."""
    verdict = episode.verdict
    if verdict is None:
        return []
    return [episode.turn(verdict.turn)] if verdict.turn else episode.by(verdict.seat)


def _texts(same: Sequence[Scored]) -> list[Text]:
    """The texts under one prompt, the best first; equally good ones as they first came."""
    times: dict[str, list[Scored]] = defaultdict(list)
    for turn in same:
        times[turn.turn.text].append(turn)
    texts = [Text(fmean(t.reward for t in found), tuple(found)) for found in times.values()]
    return sorted(texts, key=lambda text: -text.reward)


def _pairs(texts: Sequence[Text], most: int) -> list[tuple[Text, Text]]:
    """A better and a worse text, of rising overlap: first each text of the upper half against the
    one half the ranking below it, then at other distances."""
    return list(islice(_all_pairs(texts), most))


def _all_pairs(texts: Sequence[Text]) -> Iterator[tuple[Text, Text]]:
    n = len(texts)
    for apart in sorted(range(1, n), key=lambda d: (abs(2 * d - n), d)):
        for better, worse in zip(texts, texts[apart:], strict=False):
            if better.reward > worse.reward:
                yield better, worse


def _row(kind: Kind, prompt_of: PromptOf, *used: Text, **more: Any) -> Row:
    turns = [turn for text in used for turn in text.times]
    first = turns[0]
    return Row(
        kind=kind,
        seat=first.turn.seat,
        prompt=prompt_of(first.turn),
        replies=tuple(text.times[0].turn.text for text in used),
        source=worst(turn.source for turn in turns),
        judge=" + ".join(dict.fromkeys(turn.judge for turn in turns)),
        turns=tuple(dict.fromkeys(ref for turn in turns for ref in turn.refs)),
        iteration=first.iteration,
        **more,
    )
