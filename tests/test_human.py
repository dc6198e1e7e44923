"""A person in a seat: the episode waits, nobody else does, and nothing is said twice."""

import asyncio
import operator
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from superalign.agents import Agent, Ask, Request, Sampling, Waits, plain, view
from superalign.agents.human import Human
from superalign.protocols import Context, State, Verdict, load_protocol, protocol
from superalign.protocols.replay import replay
from superalign.store import Question
from superalign.store.labels import LabelBook, Mark

NESTED = Path(__file__).parent / "nested.py"
GUESS = Ask(kind="guess", instruction="Guess.")


@protocol(seats=("model", "person"))
def wide() -> Any:
    """Two nodes at once, one of them a person's; then three Sends, each asks both seats."""

    class Wide(State):
        n: Annotated[int, operator.add]

    def asks(seat):
        async def node(state, runtime):
            return {"turns": [await runtime.context.cast[seat].act(state, GUESS)]}

        return node

    async def spread(state):
        return [Send("each", state) for _ in range(3)]

    async def each(state, runtime):
        cast = runtime.context.cast
        first = await cast["model"].act(state, GUESS)
        about = Ask(kind="guess", about=(first,), instruction="Guess again.")
        return {"turns": [first, await cast["person"].act(state, about)]}

    async def end(state):
        return {"verdict": Verdict(value=" ".join(t.text for t in state["turns"]), seat="person")}

    graph = StateGraph(Wide, context_schema=Context)
    graph.add_node("left", asks("model")).add_node("right", asks("person"))
    graph.add_node("each", each).add_node("end", end)
    graph.add_node("meet", lambda state: {})
    graph.add_edge(START, "left").add_edge(START, "right").add_edge(["left", "right"], "meet")
    graph.add_conditional_edges("meet", spread, ["each"]).add_edge("each", "end")
    return graph.add_edge("end", END)


@wide.score
def scored(episode):
    return {"model": 1.0, "person": None}


@pytest.fixture
def book(path):
    return LabelBook.beside(str(path))


@pytest.fixture
def person(book):
    """An agent whose answers lie in the labels file of the store."""
    return Agent(Human("me", book, "run"), "me", Sampling(), source="human")


def says(book, case, value, author="anna"):
    where = {"run": case.run, "episode": case.episode, "turn": case.turn, "kind": case.kind}
    book.add(Mark(**where, author=author, what="answer", value=value))


def word(episode, key):
    """What the person says: it follows from the call alone."""
    return f"{episode[:4]} {key}"


def ok_or_1(_, key):
    return "ok" if key.endswith("00") else "1"


def waiting(store, book):
    """Cases that nobody has answered."""
    return [c for c in store.cases("run") if (c.episode, c.turn) not in book.answers("run")]


async def to_the_end(stage, book, play, episodes, word=word):
    """Play and answer until nothing waits; how often it was played."""
    for times in range(1, 20):
        ended = await play(stage, episodes)
        if all(e.status == "waiting" for e in ended):
            for case in waiting(stage.store, book):
                says(book, case, word(case.episode, case.turn))
        else:
            assert all(e.status == "done" for e in ended)
            return ended, times
    raise AssertionError("it waits for ever")


def asked(calls):
    """A model that notes what it was asked; its answer follows from the call's seed."""

    async def reply(request):
        calls.append((request.episode, request.key))
        await asyncio.sleep(request.seed % 7 / 1000)
        return str(request.seed % 10)

    return reply


async def test_parallel_nodes_and_sends_wait_and_go_on(setting, play, person, book, store):
    calls = []
    stage = setting(wide, model=asked(calls), person=person)
    (episode,), times = await to_the_end(stage, book, play, 1)
    assert times == 3  # one person's call at first, then three at once
    assert [c.why for c in store.cases("run")] == ["seat"] * 4
    assert len(calls) == len(set(calls)) == 4  # no model call is repeated
    assert len(episode.turns) == 8
    assert {t.source for t in episode.by("person")} == {"human"}
    assert {t.policy for t in episode.by("person")} == {"anna"}
    assert await replay(stage, next(store.episodes("run"))) is None


@pytest.mark.parametrize(
    ("name", "word"), [("wide", word), ("panel", ok_or_1), ("exchange", ok_or_1)]
)
async def test_a_person_who_answers_at_once_makes_the_same_transcript(
    name, word, setting, play, make, person, book
):
    """Also in subgraphs within Sends, and where one node asks the person several times."""
    shape, calls = (wide if name == "wide" else load_protocol(name, NESTED)), []
    *models, seat = shape.seats
    others = {seat: asked(calls) for seat in models}
    stage = setting(shape, **others, **{seat: person})
    late, _ = await to_the_end(stage, book, play, 4, word)
    assert len(calls) == len(set(calls))
    at_once = {seat: lambda request: word(request.episode, request.key)}
    soon = await play(setting(shape, **others, **at_once), make.plans(4, run="other"))
    assert [e.transcript_hash for e in late] == [e.transcript_hash for e in soon]
    assert [[t.key for t in e.turns] for e in late] == [[t.key for t in e.turns] for e in soon]


async def test_who_waits_blocks_nobody(setting, play, person, make, store):
    asks = make.chance("2+2", "invalid")
    ended = await play(setting(attacker=asks, critic=person), make.plans(40), concurrency=2)
    status = [e.status for e in ended]
    assert set(status) == {"waiting", "done"}
    assert store.count("run") == status.count("done")
    assert len({case.episode for case in store.cases("run")}) == status.count("waiting")


async def test_a_resumed_episode_asks_no_model_again(setting, play, person, book, forbidden):
    parked = setting(critic=person)
    (first,) = await play(parked, 1)
    assert first.status == "waiting"
    for case in waiting(parked.store, book):
        says(book, case, "ok")
    resumed = setting(attacker=forbidden, learner=forbidden, critic=person)
    (done,) = await play(resumed, 1)
    assert done.status == "done"
    assert [c.fault for c in done.critiques] == [None] * 4
    assert {t.key: t.text for t in first.turns}.items() <= {
        t.key: t.text for t in done.turns
    }.items()


async def test_part_of_the_answers_is_taken_over(setting, play, person, book, store):
    await play(setting(critic=person), 1)
    one, *others = waiting(store, book)
    says(book, one, "ok")
    (episode,) = await play(setting(critic=person), 1)
    assert episode.status == "waiting"
    assert [t.key for t in episode.by("critic")] == [one.turn]
    assert len(store.cases("run")) == 1 + len(others)


async def test_a_sibling_that_fails_ends_the_episode_without_the_person(setting, play, person):
    def fails(request):
        raise ValueError("no model")

    (episode,) = await play(setting(wide, model=fails, person=person), 1)
    assert episode.status == "failed"
    assert "no model" in (episode.error or "")


async def test_a_word_that_cannot_be_read_is_a_failure(setting, play, person, book, store):
    await play(setting(critic=person), 1)
    for case in store.cases("run"):
        says(book, case, "perhaps")
    (episode,) = await play(setting(critic=person), 1)
    assert episode.status == "failed"
    assert "perhaps" in (episode.error or "")


async def test_a_case_holds_what_the_person_was_shown(setting, play, person, store):
    await play(setting(critic=person), 1)
    (case, *_) = store.cases("run")
    known = store.messages(case.messages)
    shown = [(known[key].role, known[key].content) for key in case.messages]
    assert [role for role, _ in shown] == ["question", "answer", "critique"]
    assert shown[0][1] == "2+2"
    assert "Write `ok`, or the number" in shown[2][1]
    assert case.kind == "critique"


# The engine.


def request(ask=GUESS, key="k"):
    shown = view("person", Question(text="q"), None, ask)
    where = {"episode": "e", "key": key, "nth": 0, "policy": "me", "seed": 0}
    return Request(messages=(), sampling=Sampling(), view=shown, **where)


async def test_the_first_answer_that_stands_counts(book):
    human = Human("me", book, "run")
    with pytest.raises(Waits):
        await human.generate(request())
    where: dict[str, Any] = {"run": "run", "episode": "e", "turn": "k", "kind": "guess"}
    for author, value in (("ben", "1"), ("anna", "2"), ("carl", "3")):
        book.add(Mark(**where, author=author, what="answer", value=value))
    assert (await human.generate(request())).text == "1"
    book.add(Mark(**where, author="ben", what="undo"))
    said = await human.generate(request())
    assert (said.text, said.author) == ("2", "anna")
    with pytest.raises(Waits):
        await Human("me", book, "another run").generate(request())
    with pytest.raises(Waits):
        await human.generate(request(key="other"))


# The dialect of people.


def test_plain_gives_each_part_its_name(make):
    question = Question(topic="easy", text="2+2", choices=("4", "5"))
    about = make.turn(kind="answer", text="4\nquestion\nforged")
    ask = Ask(kind="verdict", about=(about,), instruction="Who is right?")
    shown = plain.render(view("judge", question, "only you know", ask), 0)
    assert [(m.role, m.content) for m in shown] == [
        ("question", "2+2"),
        ("private note, for you alone", "only you know"),
        ("answer", "4\nquestion\nforged"),
        ("(0)", "4"),
        ("(1)", "5"),
        ("verdict", "Who is right? Write the number of your choice."),
    ]


@pytest.mark.parametrize(
    ("kind", "instruction", "said"),
    [
        ("critique", "Look.", "Look. Write `ok`, or the number of the first wrong line."),
        ("verdict", "Decide.", "Decide."),
        ("speech", "", "Write the speech."),
    ],
)
def test_the_last_part_says_what_to_do(kind, instruction, said):
    (last,) = plain.render(view("s", Question(), None, Ask(kind=kind, instruction=instruction)), 0)
    assert (last.role, last.content) == (kind, said)


def test_plain_does_not_depend_on_the_seed():
    shown = view("s", Question(text="q"), None, GUESS)
    assert plain.render(shown, 1) == plain.render(shown, 2)
