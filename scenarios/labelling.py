"""What waits for people, how they answer it, and how their answers come back into a run.

The command line and the viewer share these functions; they keep no state but the labels file. Who
labels is blind: a sheet tells neither who spoke, nor what a critic said of it, nor why the case was
chosen, nor whether somebody else has seen it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from sqlalchemy import select

from superalign.agents import Ask, View, clean, parse_choice, parse_fault, plain
from superalign.store import BadInput, Case, Episode, Label, Store, Turn, Unreadable
from superalign.store.database import core
from superalign.store.labels import LabelBook, Mark, Place, not_undone
from superalign.store.records import Message, digest
from superalign.store.tables import Cases, Turns

from .statistics import krippendorff_alpha

ASK = "Is this answer right?"
RIGHT, WRONG = "right", "wrong"
LONGEST = 20_000
"""Characters of an answer or a note."""
CHOICE = re.compile(r"\(\d+\)")
"""The name under which the plain dialect shows a choice."""


class Sheet(NamedTuple):
    """A case and all that a person is shown of it."""

    case: Case
    parts: tuple[Message, ...]
    """What there is to read: each part's role is its name."""
    task: str
    """What to do, and in which form."""

    @property
    def place(self) -> Place:
        return self.case.episode, self.case.turn

    @property
    def judged(self) -> Message | None:
        """The part that is to be judged: the last that is no choice."""
        return next((p for p in reversed(self.parts) if not CHOICE.fullmatch(p.role)), None)

    @property
    def choices(self) -> int:
        return sum(CHOICE.fullmatch(part.role) is not None for part in self.parts)

    @property
    def keys(self) -> dict[str, str]:
        """Keystroke -> answer, where ten keys suffice; else the answer is a text."""
        kind, judged = self.case.kind, self.judged
        if kind == "label":
            return {"y": RIGHT, "n": WRONG}
        if kind == "verdict" and 0 < self.choices <= 10:
            return {str(i): str(i) for i in range(self.choices)}
        if kind == "critique" and judged and (n := len(working_lines(judged.content))) <= 9:
            return {"o": "ok"} | {str(i): str(i) for i in range(1, n + 1)}
        return {}


def working_lines(text: str) -> list[str]:
    """An answer's working lines as critics count them; an organism's stand on one line, cut at
    semicolons."""
    lines = text.strip().splitlines()
    return lines if len(lines) > 1 else text.strip().split(";")


# What waits.


def open_cases(store: Store, book: LabelBook, run: str) -> list[Case]:
    """The cases that want another answer, the oldest first."""
    answers, closed = book.answers(run), _closed(store, run)
    return [
        case
        for case in store.cases(run)
        if (at := (case.episode, case.turn)) not in closed
        and len(answers.get(at, ())) < case.raters
    ]


def waits_for_people(store: Store, run: str) -> int:
    """How many cases of a run want an answer."""
    return len(open_cases(store, LabelBook.beside(store.url), run))


def _closed(store: Store, run: str) -> set[Place]:
    """Places that the run has done with: it has a label there, the human seat has spoken, or the
    seat's episode has ended without it."""
    cases, turns = core(Cases).c, core(Turns).c
    seats = select(cases.episode, cases.turn).where(cases.run == run, cases.kind != "label")
    same = (turns.run == cases.run, turns.episode == cases.episode, turns.key == cases.turn)
    with store.connect() as db:
        spoken = {
            (e, t) for e, t in db.execute(seats.join(core(Turns), same[0] & same[1] & same[2]))
        }
        asked = {(e, t) for e, t in db.execute(seats)}
    ended = store.ended(run)
    labelled = {(label.episode, label.turn) for label in store.labels(run)}
    return labelled | spoken | {place for place in asked if place[0] in ended}


def queue(
    store: Store, book: LabelBook, run: str, author: str, limit: int | None = None
) -> list[Sheet]:
    """What this person has yet to answer, what they skipped last.

    The order is each person's own and tells nothing of the cases; two people who work at once
    seldom meet at one.
    """
    mine = {m.place: m for m in not_undone(book.marks(run)) if m.author == author}

    def rank(case: Case) -> tuple[float, str]:
        skipped = mine.get((case.episode, case.turn))
        return skipped.at if skipped else 0.0, digest(author, case.episode, case.turn)

    done = {place for place, mark in mine.items() if mark.what == "answer"}
    wanted = [c for c in open_cases(store, book, run) if (c.episode, c.turn) not in done]
    return sheets(store, sorted(wanted, key=rank)[:limit])


def sheets(store: Store, cases: Sequence[Case]) -> list[Sheet]:
    """Cases with their text."""
    known = store.messages(key for case in cases for key in case.messages)
    found = []
    for case in cases:
        *parts, task = (known[key] for key in case.messages)
        found.append(Sheet(case, tuple(parts), task.content))
    return found


# What people do.


def answer(
    store: Store,
    book: LabelBook,
    run: str,
    author: str,
    place: Place,
    value: str,
    note: str = "",
    seconds: float | None = None,
) -> Mark:
    """Answer a case. Raises BadInput when it is not open to this person, or cannot be read."""
    sheet = _open_sheet(store, book, run, author, place)
    value, note = clean(value.strip())[0], clean(note.strip())[0]
    if not value or max(len(value), len(note)) > LONGEST:
        raise BadInput(f"an answer has 1 to {LONGEST:,} characters, and a note at most as many")
    try:
        if sheet.case.kind == "label" and value not in (RIGHT, WRONG):
            raise Unreadable(f"label {value!r}: expected {RIGHT} or {WRONG}")
        if sheet.case.kind == "critique":
            parse_fault(value)
        if sheet.case.kind == "verdict" and sheet.choices:
            parse_choice(value, sheet.choices)
    except Unreadable as error:
        raise BadInput(str(error)) from None
    return _mark(book, sheet.case, author, "answer", value=value, note=note, seconds=seconds)


def skip(store: Store, book: LabelBook, run: str, author: str, place: Place) -> Mark:
    """Put a case off: it comes last in this person's queue."""
    return _mark(book, _open_sheet(store, book, run, author, place).case, author, "skip")


def undo(store: Store, book: LabelBook, run: str, author: str) -> Mark | None:
    """Take back this person's last answer or skip, and give it; None when there is none.

    Raises BadInput when the run has already taken the answer over.
    """
    mine = [mark for mark in not_undone(book.marks(run)) if mark.author == author]
    if not mine:
        return None
    last = mine[-1]
    if last.what == "answer" and last.place in _closed(store, run):
        raise BadInput(f"{run}: the run has taken your last answer over; it stands")
    case = next(c for c in store.cases(run) if (c.episode, c.turn) == last.place)
    _mark(book, case, author, "undo")
    return last


def _open_sheet(store: Store, book: LabelBook, run: str, author: str, place: Place) -> Sheet:
    if not 0 < len(author) <= 64 or not author.isprintable():
        raise BadInput(f"--author {author!r}: a name has 1 to 64 printable characters")
    for case in open_cases(store, book, run):
        if (case.episode, case.turn) == place:
            break
    else:
        raise BadInput(f"{'/'.join((run, *place))}: no case of this name wants an answer")
    if author in {mark.author for mark in book.answers(run, place).get(place, ())}:
        raise BadInput(f"{'/'.join((run, *place))}: {author} has answered it; undo that first")
    return sheets(store, [case])[0]


def _mark(book: LabelBook, case: Case, author: str, what: Any, **more: Any) -> Mark:
    where = {"run": case.run, "episode": case.episode, "turn": case.turn, "kind": case.kind}
    mark = Mark(**where, author=author, what=what, **more)
    book.add(mark)
    return mark


# What the run makes of it.


def label_case(
    episode: Episode, about: Turn, why: str, raters: int = 1
) -> tuple[Case, tuple[Message, ...]]:
    """The case that asks a person whether an answer is right, and the messages it shows."""
    ask = Ask(kind="label", about=(about,), instruction=ASK)
    question = episode.question.model_copy(update={"topic": ""})
    messages = plain.render(View(seat="", question=question, private=None, ask=ask), 0)
    case = Case(
        run=episode.run,
        episode=episode.id,
        turn=about.key,
        seat=about.seat,
        kind="label",
        why=why,
        raters=raters,
        messages=tuple(message.hash for message in messages),
    )
    return case, messages


def labels_of(cases: Iterable[Case], answers: Mapping[Place, Sequence[Mark]]) -> list[Label]:
    """What people answered, as the store's labels."""
    return [
        Label(
            run=case.run,
            episode=case.episode,
            turn=case.turn,
            correct=mark.value == RIGHT,
            source="human",
            author=mark.author,
            why=case.why,
            note=mark.note,
            seconds=mark.seconds,
            at=mark.at,
        )
        for case in cases
        if case.kind == "label"
        for mark in answers.get((case.episode, case.turn), ())
    ]


def agreement(labels: Iterable[Label]) -> dict[str, Any] | None:
    """Krippendorff's alpha over the answers that two or more people labelled, and their number.

    None when there are none. The alpha is None where all labels are alike: agreement cannot be
    told from habit then.
    """
    by_answer: dict[tuple[str, ...], dict[str, bool]] = {}
    for label in labels:
        if label.source == "human":
            where = (label.run, label.episode, label.turn)
            by_answer.setdefault(where, {})[label.author] = label.correct
    twice = [tuple(said.values()) for said in by_answer.values() if len(said) > 1]
    return {"alpha": krippendorff_alpha(twice), "n": len(twice)} if twice else None


def label_status(store: Store, book: LabelBook, run: str) -> dict[str, Any]:
    """How far people have come with a run: what waits, who answered, how far they agree."""
    cases, waiting = store.cases(run), open_cases(store, book, run)
    answers, marks = book.answers(run), not_undone(book.marks(run))
    said = [mark for at in answers.values() for mark in at]
    authors = sorted({mark.author for mark in marks})
    known = {(label.episode, label.turn, label.author): label for label in store.labels(run)}
    known |= {(x.episode, x.turn, x.author): x for x in labels_of(cases, answers)}
    return {
        "run": run,
        "cases": len(cases),
        "waiting": len(waiting),
        "kinds": dict(sorted(Counter(case.kind for case in waiting).items())),
        "people": [_person(author, marks, said) for author in authors],
        "label_agreement": agreement(known.values()),
    }


def _person(author: str, marks: Sequence[Mark], said: Sequence[Mark]) -> dict[str, Any]:
    mine = [mark for mark in said if mark.author == author]
    took = [mark.seconds for mark in mine if mark.seconds is not None]
    newest = {mark.place: mark.what for mark in marks if mark.author == author}
    return {
        "author": author,
        "answers": len(mine),
        "skipped": sum(what == "skip" for what in newest.values()),
        "median_seconds": median(took) if took else None,
    }
