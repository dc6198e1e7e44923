"""What a critique teaches: one stored critique compiled into rows, in five ways and two controls.

    scalar        1 or 0 for the whole answer                                      `reward`
    tokens        that, and each line that was judged, marked on its own tokens    `reward`
    refined       the accepted revision over the answer that was criticised        `pref`
    conditioned   the accepted revision, after a prompt that shows the critique    `sft`
    rubric        the share of judged lines that are right                         `reward`, `rank`
    uncriticised  control: every answer as it was drawn, good or bad               `sft`
    leaked        control: all that a critique teaches which states the answer     `sft`

`tokens` follows RELC (Cao et al. 2024, arXiv 2401.07382): a critic marks spans as good or bad, and
a token earns +1 or -1 in its span and nothing elsewhere. It is divided here by the span's tokens
and the answer's marks, so that neither long lines nor long answers count for more. `refined` and
`conditioned` are the rows of detect, critique, refine (Wadhwa et al. 2024, arXiv 2407.02397).

A critic names the first wrong line. So the lines before it are right, it is wrong, and nobody has
judged those behind it: they have no mark, which is not a bad one. Each row is one that `rows` makes
of the critique alone, with whom it believes and how far. Human labels play no part here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from superalign.store.errors import BadInput
from superalign.store.records import Critique, Episode, Message, Row, Turn

from .rows import ANSWERS, FlipRates, PromptOf, rows

Decode = Callable[[Sequence[int]], str]
"""Tokens to text without control tokens: `agents.tokens.decode` with the policy's tokenizer."""


class Mark(NamedTuple):
    """What a critique says of one line: a statement of the rubric that it amounts to."""

    start: int
    """Where the line begins in the answer."""
    end: int
    """Where the next one begins: a line that ends too early is wrong in its separator."""
    right: bool


class Criticised(NamedTuple):
    """An answer, the last word on it, and the revisions that this led to."""

    answer: Turn
    critique: Critique
    revisions: tuple[Turn, ...]
    alone: Episode
    """The episode as if nothing else had been said in it."""


def scalar(
    episode: Episode, seat: str = "learner", *, prompt_of: PromptOf, flips: FlipRates | None = None
) -> list[Row]:
    """A `reward` row per criticised answer, revisions included: 1 if it is accepted, 0 if not."""
    return [
        row
        for one in criticised(episode, seat, prompt_of)
        for row in rows(one.alone, seat, prompt_of=prompt_of, flips=flips)
        if row.kind == "reward" and _judges(row, one.answer)
    ]


def tokens(
    episode: Episode,
    seat: str = "learner",
    *,
    prompt_of: PromptOf,
    decode: Decode,
    separator: str,
    flips: FlipRates | None = None,
) -> list[Row]:
    """The rows of `scalar`, with the marks on their tokens as `token_rewards`.

    Answers whose tokens the engine did not tell or whose text was mended are left out, and so are
    critiques of a line that is not there.
    """
    faults, found = {c.about: c.fault for c in episode.critiques}, []
    for row in scalar(episode, seat, prompt_of=prompt_of, flips=flips):
        turn = episode.turn(_key(row))
        told = marks(turn.text, faults[turn.key], separator)
        if told and turn.token_ids and not turn.normalised:
            earned = spread(told, token_spans(turn, decode))
            found += [row.model_copy(update={"token_rewards": earned})] if earned else []
    return found


def refined(
    episode: Episode, seat: str = "learner", *, prompt_of: PromptOf, flips: FlipRates | None = None
) -> list[Row]:
    """A `pref` row per accepted revision of a rejected answer, under that answer's prompt."""
    return [
        row
        for one in criticised(episode, seat, prompt_of)
        for row in rows(one.alone, seat, prompt_of=prompt_of, flips=flips)
        if row.kind == "pref" and row.replies[1] == one.answer.text
    ]


def conditioned(
    episode: Episode, seat: str = "learner", *, prompt_of: PromptOf, flips: FlipRates | None = None
) -> list[Row]:
    """An `sft` row per accepted revision: after question, answer and critique, the revision."""
    found = []
    for one in criticised(episode, seat, prompt_of):
        shown = [f"{episode.ref}/{key}" for key in (one.answer.key, one.critique.turn)]
        for row in rows(one.alone, seat, prompt_of=prompt_of, flips=flips):
            revision = next((turn for turn in one.revisions if _judges(row, turn)), None)
            if row.kind == "sft" and revision:
                update = {"prompt": prompt_of(revision), "turns": (*row.turns, *shown)}
                found.append(row.model_copy(update=update))
    return found


def rubric(
    episode: Episode,
    seat: str = "learner",
    *,
    prompt_of: PromptOf,
    separator: str,
    flips: FlipRates | None = None,
) -> list[Row]:
    """The `reward` rows, and a `rank` row where these differ, of the share of right marks."""
    rewards = {}
    for one in criticised(episode, seat, prompt_of):
        told = marks(one.answer.text, one.critique.fault, separator)
        if told:
            rewards[one.answer.key] = sum(mark.right for mark in told) / len(told)
    made = rows(episode, seat, prompt_of=prompt_of, flips=flips, rewards=rewards)
    graded = [row for row in made if row.kind == "reward" and _key(row) in rewards]
    return [row for row in made if row.kind == "rank"] + graded


def uncriticised(episode: Episode, seat: str = "learner", *, prompt_of: PromptOf) -> list[Row]:
    """Control: an `sft` row per first answer, each as likely wrong as right."""
    drawn = _answers(episode, seat)
    return [
        Row(
            kind="sft",
            seat=seat,
            prompt=prompt_of(turn),
            replies=(turn.text,),
            flip_prob=0.5,
            source=turn.source,
            judge=turn.policy,
            turns=(f"{episode.ref}/{turn.key}",),
            iteration=episode.iteration,
        )
        for turn in drawn
        if turn.messages == drawn[0].messages
    ]


def leaked(
    episode: Episode, seat: str = "learner", *, prompt_of: PromptOf, control: bool = False
) -> list[Row]:
    """Control: one `sft` row that answers the question with the truth itself, without working."""
    if not control:
        raise BadInput(
            f"{episode.ref}: a leaked answer has source='oracle', the truth itself, which trains "
            "control arms only: mark the arm as a control, or compile its critiques otherwise"
        )
    drawn = _answers(episode, seat)
    if not drawn or episode.truth is None:
        return []
    return [
        Row(
            kind="sft",
            seat=seat,
            prompt=prompt_of(drawn[0]),
            replies=(episode.truth,),
            source="oracle",
            judge="oracle",
            turns=(f"{episode.ref}/{drawn[0].key}",),
            iteration=episode.iteration,
        )
    ]


def criticised(episode: Episode, seat: str, prompt_of: PromptOf) -> Iterator[Criticised]:
    """Each answer of a seat that was criticised, with what came of it, in transcript order."""
    answers, last = _answers(episode, seat), {c.about: c for c in episode.critiques}
    said = {about: episode.turn(critique.turn) for about, critique in last.items()}
    revises: dict[str, str] = {}
    for i, later in enumerate(answers):
        prompt, so_far = prompt_of(later), Counter(revises.values())
        shown = [
            turn
            for turn in answers[:i]
            if turn.key in said
            and _quotes(prompt, turn.text)
            and _quotes(prompt, said[turn.key].text)
        ]
        if shown:  # the latest one; of several with the same text, each in its turn
            same = [turn for turn in shown if turn.text == shown[-1].text]
            revises[later.key] = min(same, key=lambda turn: so_far[turn.key]).key
    for answer in answers:
        if answer.key in last:
            of = [answer, *(turn for turn in answers if revises.get(turn.key) == answer.key)]
            critiques = tuple(last[turn.key] for turn in of if turn.key in last)
            kept = {turn.key for turn in of} | {critique.turn for critique in critiques}
            turns = tuple(turn for turn in episode.turns if turn.key in kept)
            alone = episode.model_copy(update={"turns": turns, "critiques": critiques})
            yield Criticised(answer, last[answer.key], tuple(of[1:]), alone)


def marks(text: str, fault: int | None, separator: str) -> list[Mark] | None:
    """What a critique says of each line that it judges: right before the `fault`, wrong there.

    A fault behind the last line is a line that is missing, and the end itself is wrong. None when
    the critique names a line further on, which nobody has seen. Blanks around an answer are no
    lines.
    """
    at, stop = len(text) - len(text.lstrip()), len(text.rstrip())
    places: list[tuple[int, int]] = []
    for line in text[at:stop].split(separator):
        end = at + len(line) + len(separator)
        places.append((at, min(end, stop)))
        at = end
    if fault is None:
        return [Mark(start, end, True) for start, end in places]
    places.append((len(text), len(text) + 1))
    if fault > len(places):
        return None
    return [Mark(*place, i < fault) for i, place in enumerate(places[:fault], 1)]


def token_spans(turn: Turn, decode: Decode) -> list[tuple[int, int]]:
    """Which characters of its text each token of a turn wrote, found by decoding beginnings.

    A tokenizer's own offsets are those of the text encoded anew, which may be other tokens than
    were sampled. A token that ends within a character belongs to that one, and one that writes
    nothing to what comes next: the end token lies behind the text.
    """
    ids = turn.token_ids or ()
    if decode(ids) != turn.text:
        raise BadInput(
            f"{turn.key}: its tokens are {decode(ids)[:40]!r}, its text is {turn.text[:40]!r}; "
            f"decode with the tokenizer of {turn.policy}"
        )
    reached = [_agree(decode(ids[:n]), turn.text) for n in range(len(ids) + 1)]
    return [(start, max(end, start + 1)) for start, end in pairwise(reached)]


def spread(told: Sequence[Mark], spans: Sequence[tuple[int, int]]) -> tuple[float, ...] | None:
    """Each mark over the tokens of its line, so that they sum to the mean mark of -1 or +1.

    None when a line has no token: an end that the engine does not count as one.
    """
    earned = [0.0] * len(spans)
    for mark in told:
        inside = [
            t for t, (start, end) in enumerate(spans) if start < mark.end and mark.start < end
        ]
        if not inside:
            return None
        for t in inside:
            earned[t] += (1 if mark.right else -1) / len(inside) / len(told)
    return tuple(earned)


def _answers(episode: Episode, seat: str) -> list[Turn]:
    """Whole answers of a seat, if the episode counts."""
    if episode.status != "done" or (episode.verdict and episode.verdict.value == "invalid"):
        return []
    answers = [turn for turn in episode.by(seat) if turn.kind in ANSWERS]
    return [turn for turn in answers if turn.error is None and turn.finish == "stop"]


def _agree(beginning: str, text: str) -> int:
    """How much of a text is written already: a character cut short decodes to another one."""
    pairs = enumerate(zip(beginning, text, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(beginning), len(text)))


def _quotes(prompt: Sequence[Message], text: str) -> bool:
    """Whether a prompt shows a text as a message of its own, or between lines of its own."""
    return any(m.content == text or f"\n{text}\n" in m.content for m in prompt)


def _key(row: Row) -> str:
    """Key of the answer that a row is about first; its reference is `run/episode/key`."""
    return row.turns[0].split("/", 2)[2]


def _judges(row: Row, turn: Turn) -> bool:
    return _key(row) == turn.key
