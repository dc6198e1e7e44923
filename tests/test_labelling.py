"""The labels file, the queue in which people answer it, and how far they agree."""

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.scenarios.labelling import (
    agreement,
    answer,
    label_status,
    labels_of,
    open_cases,
    queue,
    skip,
    undo,
    working_lines,
)
from superalign.scenarios.statistics import krippendorff_alpha
from superalign.store import BadInput, Case, Label, Message, StoreError
from superalign.store.labels import LabelBook, Mark, not_undone

# Agreement: known answers.

NONE = None
CODERS = [  # Krippendorff 2011: four coders, twelve units
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]
TWO = [  # section B of the same paper: two coders, binary, no value missing
    [0, 1, 0, 0, 0, 0, 0, 0, 1, 0],
    [1, 1, 1, 0, 0, 1, 0, 0, 0, 0],
]


def units(coders):
    return [[v for v in unit if v is not None] for unit in zip(*coders, strict=True)]


def test_alpha_of_the_published_examples():
    assert krippendorff_alpha(units(CODERS)) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(units(TWO)) == pytest.approx(0.095, abs=5e-4)


def test_alpha_at_its_ends():
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1.0
    assert krippendorff_alpha([["a", "b"], ["b", "a"]]) == -0.5
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([["a"], ["b"]]) is None
    assert krippendorff_alpha([]) is None


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=4), max_size=12), st.randoms())
def test_alpha_knows_no_order_and_no_single_values(found, rng):
    mixed = [rng.sample(unit, len(unit)) for unit in rng.sample(found, len(found))]
    assert krippendorff_alpha([*mixed, ["a"], []]) == pytest.approx(krippendorff_alpha(found))


def label(turn, correct, author, source: Any = "human"):
    where = {"run": "run", "episode": "e", "turn": turn, "author": author, "why": "audit"}
    return Label(**where, correct=correct, source=source)


def test_agreement_is_of_answers_that_two_people_labelled():
    one = [label("a", True, "anna"), label("b", False, "anna"), label("c", True, "anna")]
    assert agreement(one) is None
    assert agreement([*one, label("a", True, "oracle", "oracle")]) is None
    two = [*one, label("a", True, "ben"), label("b", False, "ben")]
    assert agreement(two) == {"alpha": 1.0, "n": 2}
    assert agreement([*one, label("a", True, "ben")]) == {"alpha": None, "n": 1}


# The labels file.


def mark(what: Any = "answer", author="anna", turn="t", value="right", **more):
    where = {"run": "run", "episode": "e", "turn": turn, "kind": "label"}
    return Mark(**{**where, "author": author, "what": what, "value": value, **more})


@pytest.fixture
def book(path):
    return LabelBook.beside(f"sqlite:///{path}")


def test_it_lies_beside_the_store(path, book):
    assert book.path == path.with_name("store.labels.sqlite")
    assert LabelBook.beside(str(path)).path == book.path
    assert book.marks("run") == [] and not book.path.exists()
    with pytest.raises(BadInput, match="give --store a path"):
        LabelBook.beside("sqlite://")


def test_what_is_written_is_read_back(book):
    said = [mark(note="hm \N{SNOWMAN}", seconds=1, at=2.5), mark("skip", turn="u", value="")]
    for one in said:
        book.add(one)
    assert book.marks("run") == said
    assert book.marks("run", ("e", "u")) == said[1:]
    assert book.marks("other") == []


def test_the_newest_answer_of_each_person_stands(book):
    for author, value in (("anna", "right"), ("ben", "wrong"), ("anna", "wrong")):
        book.add(mark(author=author, value=value))
    stands = book.answers("run")["e", "t"]
    assert [(m.author, m.value) for m in stands] == [("ben", "wrong"), ("anna", "wrong")]


def test_undos_walk_backwards_and_touch_nobody_else():
    past = [mark(turn="1"), mark(turn="1", author="ben"), mark("skip", turn="2"), mark(turn="3")]
    anna = [m for m in past if m.author == "anna"]
    for times in range(5):
        left = not_undone([*past, *[mark("undo", turn="?")] * times])
        assert [m for m in left if m.author == "anna"] == anna[: max(0, 3 - times)]
        assert past[1] in left


def test_an_undo_is_a_mark_and_nothing_is_deleted(book):
    book.add(mark(value="right"))
    book.add(mark(value="wrong"))
    book.add(mark("undo"))
    assert [m.value for m in book.answers("run")["e", "t"]] == ["right"]
    assert len(book.marks("run")) == 3


def test_several_writers_at_once(book):
    def write(author):
        for i in range(20):
            LabelBook(book.path).add(mark(author=author, turn=str(i)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert len(book.marks("run")) == 80
    assert {len(said) for said in book.answers("run").values()} == {4}


@pytest.mark.parametrize("change", ["value = 'wrong'", "author = 'ben'", "at = 1", "seconds = 2"])
def test_an_altered_mark_is_refused(change, book):
    book.add(mark())
    with sqlite3.connect(book.path) as db:
        db.execute(f"UPDATE marks SET {change}")
    with pytest.raises(StoreError, match="mark 1 was altered"):
        book.answers("run")


def test_a_file_that_is_none_or_another_s_is_refused(book):
    book.path.write_text("no database " * 100)
    with pytest.raises(StoreError, match="no labels file"):
        book.marks("run")
    book.path.unlink()
    with sqlite3.connect(book.path) as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreError, match="version 9"):
        book.add(mark())


# The queue.


def put(store, n=1, kind="label", raters=1, parts=(("question", "2+2"), ("answer", "1;2;3")), at=0):
    """Cases of one kind; each has its own turn."""
    messages = [Message(role=r, content=c) for r, c in (*parts, (kind, "Say."))]
    for message in messages:
        store.put_message(message, message.hash)
    hashes = tuple(message.hash for message in messages)
    cases = [
        Case(
            run="run", episode=f"e{i}", turn=f"{kind}{i}", seat="s", kind=kind, why="audit",
            raters=raters, messages=hashes,
        )
        for i in range(at, at + n)
    ]  # fmt: skip
    store.put_cases(cases)
    return [(case.episode, case.turn) for case in cases]


def test_a_sheet_holds_what_is_shown_and_nothing_else(store, book):
    put(store)
    (sheet,) = queue(store, book, "run", "anna")
    assert [(p.role, p.content) for p in sheet.parts] == [("question", "2+2"), ("answer", "1;2;3")]
    assert (sheet.task, sheet.keys) == ("Say.", {"y": "right", "n": "wrong"})


@pytest.mark.parametrize(
    ("kind", "parts", "keys"),
    [
        ("critique", [("answer", "1\n2\n3")], "o123"),
        ("critique", [("question", "1;2"), ("answer", "1;2;3;4")], "o1234"),
        ("critique", [("answer", ";".join("0123456789"))], ""),
        ("critique", [], ""),
        ("verdict", [("a", "x"), ("(0)", "4"), ("(1)", "5")], "01"),
        ("verdict", [("a", "x")], ""),
        ("verdict", [(f"({i})", "x") for i in range(11)], ""),
        ("speech", [("question", "x")], ""),
    ],
)
def test_one_keystroke_where_ten_keys_suffice(kind, parts, keys, store, book):
    put(store, kind=kind, parts=parts)
    (sheet,) = queue(store, book, "run", "anna")
    assert "".join(sheet.keys) == keys


def test_working_lines_are_those_that_critics_count():
    assert working_lines("4+6=10;2+3+1=6;60") == ["4+6=10", "2+3+1=6", "60"]
    assert working_lines("first; then\nsecond\n") == ["first; then", "second"]


def test_everybody_has_an_order_of_their_own_which_stays(store, book):
    put(store, 20)

    def order(author):
        return [sheet.place for sheet in queue(store, book, "run", author)]

    assert order("anna") == order("anna") != order("ben")
    assert sorted(order("anna")) == sorted(order("ben"))
    assert [sheet.place for sheet in queue(store, book, "run", "anna", 3)] == order("anna")[:3]


def test_answered_cases_leave_and_skipped_ones_come_last(store, book):
    put(store, 4)
    first, second, third, last = (sheet.place for sheet in queue(store, book, "run", "anna"))
    skip(store, book, "run", "anna", first)
    skip(store, book, "run", "anna", second)
    answer(store, book, "run", "anna", third, "right")
    assert [s.place for s in queue(store, book, "run", "anna")] == [last, first, second]
    assert len(queue(store, book, "run", "ben")) == 3
    assert undo(store, book, "run", "anna").place == third  # type: ignore[union-attr]
    undo(store, book, "run", "anna")
    assert [s.place for s in queue(store, book, "run", "anna")] == [second, third, last, first]


def test_two_people_see_a_case_and_neither_sees_the_other(store, book):
    (place,) = put(store, raters=2)
    before = queue(store, book, "run", "ben")
    answer(store, book, "run", "anna", place, "right")
    assert queue(store, book, "run", "anna") == []
    assert queue(store, book, "run", "ben") == before
    assert len(open_cases(store, book, "run")) == 1
    answer(store, book, "run", "ben", place, "wrong")
    assert open_cases(store, book, "run") == []
    assert queue(store, book, "run", "carl") == []


# Answering.


@pytest.mark.parametrize(
    ("kind", "parts", "value", "message"),
    [
        ("label", [], "perhaps", "expected right or wrong"),
        ("critique", [], "perhaps", "expected `ok` or the number"),
        ("verdict", [("(0)", "x"), ("(1)", "y")], "2", "from 0 to 1"),
        ("speech", [], "  ", "1 to 20,000 characters"),
        ("speech", [], "x" * 20_001, "1 to 20,000 characters"),
    ],
)
def test_what_cannot_be_read_is_refused(kind, parts, value, message, store, book):
    (place,) = put(store, kind=kind, parts=parts)
    with pytest.raises(BadInput, match=message):
        answer(store, book, "run", "anna", place, value)
    assert book.marks("run") == []


def test_an_answer_is_kept_with_note_and_time(store, book):
    (place,) = put(store, kind="speech")
    answer(store, book, "run", "anna", place, " so\ud800 it is ", "a\0note", 1.5)
    (said,) = book.marks("run")
    assert (said.value, said.note, said.seconds) == ("so\ufffd it is", "a\ufffdnote", 1.5)


def test_only_open_cases_are_answered(store, book):
    (place,) = put(store, raters=2)
    with pytest.raises(BadInput, match="no case of this name"):
        answer(store, book, "run", "anna", ("e0", "other"), "right")
    for author in ("", "a\nb", "x" * 65):
        with pytest.raises(BadInput, match="--author"):
            answer(store, book, "run", author, place, "right")
    answer(store, book, "run", "anna", place, "right")
    with pytest.raises(BadInput, match="anna has answered it"):
        answer(store, book, "run", "anna", place, "wrong")


def test_nothing_to_take_back(store, book):
    put(store)
    assert undo(store, book, "run", "anna") is None


def test_what_the_run_has_taken_over_stands(store, book):
    (place,) = put(store)
    answer(store, book, "run", "anna", place, "wrong", "odd", 2.0)
    (found,) = labels_of(store.cases("run"), book.answers("run"))
    assert (found.correct, found.why, found.source, found.author) == (
        False, "audit", "human", "anna",
    )  # fmt: skip
    assert (found.note, found.seconds, found.at) == ("odd", 2.0, book.marks("run")[0].at)
    store.put_labels([found])
    with pytest.raises(BadInput, match="taken your last answer over"):
        undo(store, book, "run", "anna")


async def test_a_seat_s_case_closes_when_its_episode_ends(setting, play, store, book, make):
    """Spoken is spoken; and nobody is asked on behalf of an episode that has failed."""
    put(store, 3, kind="guess")
    (ended,) = await play(setting(), 1)
    store.put_cases([store.cases("run")[0].model_copy(update={"episode": ended.id})])
    store.put_turn("run", "e1", make.turn(key="guess1"))
    store.flush()
    assert {case.episode for case in open_cases(store, book, "run")} == {"e0", "e2"}


def test_status_counts(store, book):
    twice, one = put(store, 2, raters=2), put(store, kind="critique")
    for author, values in (("anna", ("right", "wrong")), ("ben", ("right", "right"))):
        for place, value in zip(twice, values, strict=True):
            answer(store, book, "run", author, place, value, seconds=3.0)
    skip(store, book, "run", "ben", one[0])
    facts = json.loads(json.dumps(label_status(store, book, "run"), allow_nan=False))
    assert (facts["cases"], facts["waiting"], facts["kinds"]) == (3, 1, {"critique": 1})
    assert facts["people"] == [
        {"author": "anna", "answers": 2, "skipped": 0, "median_seconds": 3.0},
        {"author": "ben", "answers": 2, "skipped": 1, "median_seconds": 3.0},
    ]
    assert facts["label_agreement"] == {"alpha": 0.0, "n": 2}
