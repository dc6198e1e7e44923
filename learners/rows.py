"""Transcripts to training rows: the rule for protocols in which critics judge whole answers.

It serves every protocol in which a seat answers one question several times and a critic says of
each answer whether it holds a fault. A protocol with another shape carries its own rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

from pydantic import Field

from superalign.store.errors import BadInput
from superalign.store.records import Episode, Label, Message, Record, Row, Source, Turn, worst

Kind = Literal["sft", "pref", "rank", "reward"]

PromptOf = Callable[[Turn], tuple[Message, ...]]
"""The messages a turn was given, looked up in the store by their hashes."""

ANSWERS = ("answer", "revision")
"""Kinds of turns that answer the question."""

AUDITS = ("audit", "random")
"""Policies that choose what to label without looking at it. Only these may measure error rates:
labels spent on doubtful answers would make the critic look worse than it is."""


class FlipRates(Record):
    """How often judgements are wrong, by what they say. `measure_flips` makes it from labels."""

    accepted: float = Field(ge=0, le=1)
    """Probability that an answer which the critic accepts is wrong."""
    rejected: float = Field(ge=0, le=1)
    """Probability that an answer which the critic rejects is right."""
    human: float = Field(default=0.0, ge=0, le=1)
    """Probability that a human label is wrong."""
    n_accepted: int = 0
    """Audited answers behind `accepted`."""
    n_rejected: int = 0
    """Audited answers behind `rejected`."""

    def error(self, correct: bool, source: Source) -> float:
        """Probability that a judgement is wrong. What a tool or the truth says is right."""
        if source == "ai":
            return self.accepted if correct else self.rejected
        return self.human if source == "human" else 0.0


TRUST = FlipRates(accepted=0.0, rejected=0.0)
"""Every judgement taken at its word: what holds as long as nothing was audited."""


class Judgement(Record):
    """What is believed of one answer, on whose word, and how far."""

    turn: str
    """Key of the answer."""
    correct: bool
    source: Source
    judge: str
    """Policy of the critic, or author of the label."""
    error: float
    """Probability that `correct` is wrong."""
    said: str | None = None
    """Key of the turn that said so; None for a label, which is no turn."""


class Answer(NamedTuple):
    """A turn that answers the question, and what is believed of it."""

    turn: Turn
    judged: Judgement


def judgements(
    episode: Episode,
    labels: Sequence[Label] = (),
    flips: FlipRates | None = None,
    seat: str = "learner",
) -> dict[str, Judgement]:
    """Answer turn -> what is believed of it. A label overrides the critic, whose last word counts.

    An answer that nobody judged, or that was cut off at its token limit, is left out: unscored is
    not wrong. So is one whose labels contradict each other.
    """
    flips = flips or TRUST
    answers = [t.key for t in episode.by(seat) if t.kind in ANSWERS and _whole(t)]
    believed = {}
    for critique in episode.critiques:
        turn, correct = episode.turn(critique.turn), critique.fault is None
        believed[critique.about] = Judgement(
            turn=critique.about,
            correct=correct,
            source=turn.source,
            judge=turn.policy,
            error=flips.error(correct, turn.source),
            said=turn.key,
        )
    for (run, of, turn), label in agreed(labels).items():
        if (run, of) != (episode.run, episode.id):
            continue
        believed.pop(turn, None)
        if label is not None:
            believed[turn] = Judgement(
                turn=label.turn,
                correct=label.correct,
                source=label.source,
                judge=label.author,
                error=flips.error(label.correct, label.source),
            )
    return {key: believed[key] for key in answers if key in believed}


def agreed(labels: Iterable[Label]) -> dict[tuple[str, str, str], Label | None]:
    """(run, episode, turn) -> its label, of several the first; None where people contradict each
    other: neither is believed."""
    found: dict[tuple[str, str, str], Label | None] = {}
    for label in labels:
        first = found.setdefault((label.run, label.episode, label.turn), label)
        if first is not None and first.correct != label.correct:
            found[label.run, label.episode, label.turn] = None
    return found


def measure_flips(
    episodes: Iterable[Episode],
    labels: Sequence[Label],
    seat: str = "learner",
    human: float = 0.0,
) -> FlipRates:
    """The critic's error rates, from answers that both it and an audit judged.

    Each is the mean of a Beta(1 + wrong, 1 + right) posterior, so that a critic nobody audited is
    believed no more than a coin, and one that was right ten times out of ten errs at 1/12. Labels
    are taken as the truth here, whatever `human`, their own error rate, is said to be.
    """
    wrong, seen = {True: 0, False: 0}, {True: 0, False: 0}
    audits = [label for label in labels if label.why in AUDITS and label.source == "human"]
    truth = {place: label.correct for place, label in agreed(audits).items() if label}
    for episode in episodes:
        for key, said in judgements(episode, seat=seat).items():
            correct = truth.get((episode.run, episode.id, key))
            if correct is not None and said.source == "ai":
                seen[said.correct] += 1
                wrong[said.correct] += correct != said.correct
    return FlipRates(
        accepted=(wrong[True] + 1) / (seen[True] + 2),
        rejected=(wrong[False] + 1) / (seen[False] + 2),
        human=human,
        n_accepted=seen[True],
        n_rejected=seen[False],
    )


def pair_flip(accepted: float, rejected: float) -> float:
    """Probability that a pair is the wrong way round, from the two judgements' error rates.

    The accepted answer is wrong with probability e_a, the rejected one right with e_r; taken as
    independent. The pair is in order when neither judgement errs, and flipped when both do. When
    one errs, both answers are right or both wrong: neither is better, so no order of the two is
    flipped. Hence P(flipped | not a tie) = e_a e_r / (e_a e_r + (1 - e_a) (1 - e_r)).
    """
    flipped, in_order = accepted * rejected, (1 - accepted) * (1 - rejected)
    return flipped / (flipped + in_order) if flipped + in_order else 0.5


def rows(
    episode: Episode,
    seat: str = "learner",
    *,
    prompt_of: PromptOf,
    labels: Sequence[Label] = (),
    flips: FlipRates | None = None,
    rewards: Mapping[str, float] | None = None,
    max_pairs: int = 8,
    control: bool = False,
) -> list[Row]:
    """All rows of one episode, in a fixed order: `sft`, `pref`, `rank`, `reward`.

    sft   one per accepted answer, under the prompt of the seat's first answer.
    pref  accepted against rejected answers to one prompt, and accepted revisions against rejected
          first answers under the first answers' prompt: at most `max_pairs`.
    rank  all judged answers that have `rewards` (turn key -> reward), best first, if these differ.
    reward  one per judged answer, under its own prompt: 1 if it is accepted and 0 if not, or its
          `rewards`.

    Equal texts are one answer. Texts that got contradictory judgements are left out, as are
    episodes that failed or whose question was invalid. Rows whose source is the oracle are refused
    unless `control` says that this arm is a control.
    """
    if episode.status != "done" or (episode.verdict and episode.verdict.value == "invalid"):
        return []
    believed = judgements(episode, labels, flips, seat)
    answers = _settled(Answer(t, believed[t.key]) for t in episode.turns if t.key in believed)
    if not answers:
        return []
    first = next(turn for turn in episode.by(seat) if turn.kind in ANSWERS)

    def row(kind: Kind, prompt: Turn, *used: Answer, **more: Any) -> Row:
        return _row(kind, episode, prompt_of(prompt), used, control, **more)

    found = [row("sft", first, a, flip_prob=a.judged.error) for a in answers if a.judged.correct]
    for better, worse in _pairs(answers, first)[:max_pairs]:
        flip_prob = pair_flip(better.judged.error, worse.judged.error)
        found.append(row("pref", worse.turn, better, worse, flip_prob=flip_prob))
    if rewards:
        ranked = [answer for answer in answers if answer.turn.key in rewards]
        ranked.sort(key=lambda answer: -rewards[answer.turn.key])
        values = tuple(rewards[answer.turn.key] for answer in ranked)
        if len(set(values)) > 1:
            found.append(row("rank", first, *ranked, rewards=values))
    for answer in answers:
        turn, judged = answer
        reward = (rewards or {}).get(turn.key, float(judged.correct))
        told = {"rewards": (reward,), "token_ids": turn.token_ids, "flip_prob": judged.error}
        found.append(row("reward", turn, answer, **told))
    return found


def _row(
    kind: Kind,
    episode: Episode,
    prompt: tuple[Message, ...],
    used: Sequence[Answer],
    control: bool,
    **more: Any,
) -> Row:
    source, judge = _authority([answer.judged for answer in used], control)
    keys = [key for turn, judged in used for key in (turn.key, judged.turn, judged.said) if key]
    return Row(
        kind=kind,
        seat=used[0].turn.seat,
        prompt=prompt,
        replies=tuple(answer.turn.text for answer in used),
        source=source,
        judge=judge,
        turns=tuple(f"{episode.ref}/{key}" for key in dict.fromkeys(keys)),
        iteration=episode.iteration,
        **more,
    )


def best_first(row: Row) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """A row's replies and rewards by falling reward; as they stand where there are no rewards."""
    if row.rewards is None:
        return row.replies, None
    ranked = sorted(zip(row.rewards, row.replies, strict=True), key=lambda pair: -pair[0])
    return tuple(reply for _, reply in ranked), tuple(reward for reward, _ in ranked)


def _whole(turn: Turn) -> bool:
    return turn.error is None and turn.finish == "stop"


def _settled(answers: Iterable[Answer]) -> list[Answer]:
    """One answer per text, in transcript order, unless its judgements contradict each other.

    The same text answers the same question, so a label on one of its turns counts for all.
    """
    by_text: dict[str, list[Answer]] = {}
    for answer in answers:
        by_text.setdefault(answer.turn.text, []).append(answer)
    settled = []
    for same in by_text.values():
        labelled = [a.judged for a in same if a.judged.said is None]
        heard = labelled or [a.judged for a in same]
        if len({judged.correct for judged in heard}) == 1:
            settled.append(Answer(same[0].turn, heard[0]))
    return settled


def _pairs(answers: Sequence[Answer], first: Turn) -> list[tuple[Answer, Answer]]:
    """Accepted and rejected answers to one prompt; those come first that use new answers.

    A rejected answer's prompt counts. Whatever answers another prompt than the first is a
    revision, and may only stand against an answer to its own prompt or to the first.
    """
    better = [answer for answer in answers if answer.judged.correct]
    worse = [answer for answer in answers if not answer.judged.correct]
    places = sorted(product(range(len(better)), range(len(worse))), key=lambda p: (sum(p), p))
    pairs = [(better[i], worse[j]) for i, j in places]
    return [(a, b) for a, b in pairs if b.turn.messages in (a.turn.messages, first.messages)]


def _authority(judged: Sequence[Judgement], control: bool) -> tuple[Source, str]:
    """Source and judge of a row. A mixed row is as good as its worst source, never better."""
    sources: set[Source] = {judgement.source for judgement in judged}
    if "oracle" in sources and not control:
        raise BadInput(
            f"{judged[0].turn!r} was judged by source='oracle', the truth itself, which trains "
            "control arms only: mark the arm as a control, or leave these labels out"
        )
    return worst(sources), " + ".join(dict.fromkeys(judgement.judge for judgement in judged))
