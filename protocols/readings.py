"""Replies that several protocols read alike, and what is counted over many episodes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from superalign.agents.parse import last_line
from superalign.store.errors import Unreadable
from superalign.store.records import (
    Critique,
    Episode,
    Message,
    Question,
    Row,
    Turn,
    Verdict,
    worst,
)

from .judging import sureness

SOLVE = (
    "Solve it step by step."
    " End with one line: `Answer: ` and the result, or the number of a choice."
)
"""Asks for an answer that `result` can read."""

ENDS = re.compile(r"(?<=[.!?])\s+|\n+|;")
"""Where a sentence or a working line ends."""


def parse_word(text: str, label: str, words: Sequence[str]) -> str:
    """A reply that ends in one of a few words, after the last `label:` if there is one."""
    word = last_line(text, label).strip("`*.() \"'").lower()
    if word in words:
        return word
    raise Unreadable(f"{label} {text!r}: expected {' or '.join(words)}")


def parse_right(text: str) -> bool:
    """A judge's word on one answer: `right` or `wrong`."""
    return parse_word(text, "verdict", ("right", "wrong")) == "right"


def final(text: str) -> str:
    """The result of an answer, so that two of them can be compared.

    What follows the last `Answer:`, and of its last line what follows the last `####` or `;`;
    without case, full stop, currency sign and thousands separators.
    """
    line = (last_line(text, "answer").splitlines() or [""])[-1]
    found = re.split(r"####|;", line)[-1].strip().rstrip(".").lstrip("$").strip()
    if not found:
        raise Unreadable(f"answer {text!r}: expected the result on the last line")
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", " ".join(found.split())).lower()


def result(question: Question, text: str) -> str:
    """The result of an answer: the index of a choice where there are choices, else `final`."""
    found = final(text)
    if not question.choices:
        return found
    word, names = found.strip("() "), [choice.strip().lower() for choice in question.choices]
    if re.fullmatch(r"[0-9]{1,4}", word) and int(word) < len(names):
        return str(int(word))
    if names.count(found) == 1:
        return str(names.index(found))
    raise Unreadable(f"answer {text!r}: expected a number from 0 to {len(names) - 1} at its end")


def standing(question: Question, turn: Turn, **more: float | None) -> Verdict:
    """The verdict that an answer stands: the choice it names, or `answered` without choices."""
    seat, key = turn.seat, turn.key
    if not question.choices:
        return Verdict(value="answered", seat=seat, turn=key, answer=turn.text, **more)
    value = result(question, turn.text)
    return Verdict(value=value, seat=seat, turn=key, answer=question.choices[int(value)], **more)


def settles(question: Question, turn: Turn, right: bool) -> str | None:
    """What a decision on one answer settles on: the answer if it is right; if it is wrong, the
    other one of two choices, and nothing where there are more or none."""
    stands = standing(question, turn).answer
    others = [choice for choice in question.choices if choice != stands]
    return stands if right else others[0] if len(question.choices) == 2 else None


def majority(turns: Sequence[Turn], about: Turn) -> tuple[Critique, float]:
    """What most of an odd number of words on one answer say, and the share that calls it right.

    Such a word is about the answer as a whole: its fault lies in line 1. Several are as sure as
    they are many; one is as sure as its model was.
    """
    votes = [parse_right(turn.text) for turn in turns]
    share = sum(votes) / len(votes)
    turn = turns[votes.index(share > 0.5)]
    sure = max(share, 1 - share) if len(turns) > 1 else sureness(turn)
    fault = None if share > 0.5 else 1
    return Critique(turn=turn.key, about=about.key, fault=fault, confidence=sure), share


def most(votes: Iterable[str]) -> tuple[str | None, float]:
    """What most voted for and the share that did; None for it when several lead."""
    counted = Counter(votes)
    (best, n), *others = counted.most_common()
    tied = bool(others) and others[0][1] == n
    return None if tied else best, n / counted.total()


def sentences(text: str) -> list[str]:
    """The sentences, lines or working lines of an answer."""
    found = [part.strip() for part in ENDS.split(text) if part.strip()]
    if not found:
        raise Unreadable(f"answer {text!r}: expected at least one sentence")
    return found


def doubt(turns: Iterable[Turn]) -> float:
    """Probability that judges were wrong: what their models told, 0 where none did."""
    told = [sure for turn in turns if (sure := sureness(turn)) is not None]
    return min(1 - sum(told) / len(told), 0.5) if told else 0.0


def whole(*turns: Turn) -> bool:
    """Whether none of the texts was cut off at its token limit."""
    return all(turn.error is None and turn.finish == "stop" for turn in turns)


def row(
    episode: Episode,
    seat: str,
    prompt: tuple[Message, ...],
    replies: Sequence[Turn],
    judges: Sequence[Turn],
    flip_prob: float = 0.0,
) -> Row:
    """A row `sft` of one reply, or `pref` of the better and the worse one."""
    used = dict.fromkeys(turn.key for turn in (*replies, *judges))
    return Row(
        kind="sft" if len(replies) == 1 else "pref",
        seat=seat,
        prompt=prompt,
        replies=tuple(turn.text for turn in replies),
        flip_prob=flip_prob,
        source=worst(turn.source for turn in judges),
        judge=" + ".join(dict.fromkeys(turn.policy for turn in judges)),
        turns=tuple(f"{episode.ref}/{key}" for key in used),
        iteration=episode.iteration,
    )


def matthews(pairs: Iterable[tuple[bool, bool]]) -> float | None:
    """Matthews correlation of what was said with what is so; None where one of them is constant.

    While a judge's reward for an answer rises, a falling one says that the judge is being gamed.
    """
    n = Counter(pairs)
    tp, tn, fp, fn = n[True, True], n[False, False], n[True, False], n[False, True]
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(below) if below else None


def precision_recall(pairs: Iterable[tuple[bool, bool]]) -> tuple[float | None, float | None]:
    """Of (flagged, faulty): the share of flags that are right, and of faults that are flagged."""
    n = Counter(pairs)
    flags, faults = n[True, True] + n[True, False], n[True, True] + n[False, True]
    return n[True, True] / flags if flags else None, n[True, True] / faults if faults else None


def flags(episode: Episode) -> list[tuple[bool, bool]]:
    """Of each critique of an answer that the world can judge: was it flagged, is it wrong."""
    right = episode.facts.get("correct", {})
    known = [found for found in episode.critiques if found.about in right]
    return [(found.fault is not None, not right[found.about]) for found in known]
