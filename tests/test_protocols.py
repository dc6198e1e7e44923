"""The kernel keeps its promises whatever a protocol does; the critique protocol decides rightly."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy, Send

from superalign.protocols import (
    Ask,
    Context,
    Protocol,
    State,
    Turn,
    Update,
    Verdict,
    inside,
    load_protocol,
    shipped,
)
from superalign.protocols.setting import call_seed
from superalign.store import BadInput, StoreError
from superalign.store.verify import verify

HERE = Path(__file__).parent


# Small protocols: `wire` adds what a test is about to a graph that can decide.


def made(wire: Any, *seats: str) -> Protocol:
    def build() -> StateGraph[State, Context]:
        graph = StateGraph(State, context_schema=Context)
        graph.add_node("decide", decide).add_edge("decide", END)
        wire(graph)
        return graph

    return Protocol("test", seats or ("a", "b"), build, "hash")


async def decide(state: State) -> Update:
    return {"verdict": Verdict(value=str(len(state["turns"])), seat="a")}


def line(*nodes: Any, **options: Any) -> Any:
    """START -> node -> … -> decide."""

    def wire(graph: Any) -> None:
        names = [f"n{i}" for i in range(len(nodes))]
        for name, node in zip(names, nodes, strict=True):
            graph.add_node(name, node, **options)
        for before, after in zip([START, *names], [*names, "decide"], strict=True):
            graph.add_edge(before, after)

    return wire


def beside(**nodes: Any) -> Any:
    """START -> all nodes at once -> decide."""

    def wire(graph: Any) -> None:
        for name, node in nodes.items():
            graph.add_node(name, node).add_edge(START, name)
        graph.add_edge(list(nodes), "decide")

    return wire


def says(seat: str, times: int = 1, fail: Exception | None = None) -> Any:
    """A node in which one seat speaks, some times in a row."""

    async def node(state: State, runtime: Runtime[Context]) -> Update:
        turns = [await act(runtime, state, seat) for _ in range(times)]
        if fail is not None:
            raise fail
        return {"turns": turns}

    return node


async def act(runtime: Any, state: State, seat: str, key: str | None = None, **ask: Any) -> Turn:
    return await runtime.context.cast[seat].act(state, Ask(kind="answer", **ask), key)


def reply(request: Any) -> str:
    """Depends on all that a real model's answer may depend on."""
    asked = sum(map(ord, "".join(m.content for m in request.messages)))
    return f"{request.view.seat} {request.seed % 997} {asked % 997} {request.nth}"


def keys(episode: Any) -> list[str]:
    return [turn.key for turn in episode.turns]


# critique


@pytest.mark.parametrize(
    ("learner", "value", "rewards"),
    [
        (["4", "4", "4", "4"], "solved", {"attacker": 0.0, "learner": 1.0, "critic": 1.0}),
        (["4", "5", "5", "5"], "solved", {"attacker": 0.0, "learner": 0.25, "critic": 1.0}),
        (["5", "4", "4", "4"], "fluke", {"attacker": 0.0, "learner": 0.75, "critic": 1.0}),
        (["5", "5", "4", "4"], "fluke", {"attacker": 0.0, "learner": 0.5, "critic": 1.0}),
        (["5", "5", "5", "4"], "failed", {"attacker": 1.0, "learner": 0.25, "critic": 1.0}),
        (["5", "5", "5", "5"], "failed", {"attacker": 1.0, "learner": 0.0, "critic": 1.0}),
    ],
)
async def test_critique_decides_by_the_first_answer_and_the_fresh_ones(
    learner, value, rewards, setting, play
):
    (ended,) = await play(setting(learner=learner, params={"revisions": 0}))
    assert (ended.verdict.value, ended.rewards) == (value, rewards)


async def test_an_invalid_question_ends_the_episode_unscored(setting, play):
    (ended,) = await play(setting(attacker=["an invalid one"]))
    assert (ended.status, ended.verdict.value, len(ended.turns)) == ("done", "invalid", 1)
    assert ended.rewards == {"attacker": 0.0, "learner": None, "critic": None}
    assert (ended.truth, ended.facts) == (None, {"cell": None})


@pytest.mark.parametrize("revisions", [0, 1, 3])
async def test_answers_with_a_fault_are_revised_so_often_and_no_more(revisions, setting, play):
    params = {"samples": 2, "revisions": revisions}
    (ended,) = await play(setting(learner=["5"], params=params))
    assert len(ended.by("learner")) == len(ended.critiques) == 2 * (1 + revisions)


async def test_only_answers_with_a_fault_are_revised(setting, play):
    def learner(request):
        return "4" if request.view.ask.about or request.nth else "5"

    (ended,) = await play(setting(learner=learner))
    assert len(ended.by("learner")) == 5
    assert [found.fault for found in ended.critiques] == [1, None, None, None, None]


async def test_a_critic_is_paid_for_the_truth(setting, play):
    params = {"samples": 2, "revisions": 0}
    (ended,) = await play(setting(learner=["4", "5"], critic=["ok"], params=params))
    assert ended.rewards["critic"] == 0.5
    assert ended.truth == "4"
    assert list(ended.facts["correct"].values()) == [True, False]


async def test_an_unreadable_critique_fails_the_episode_and_decides_nothing(setting, play):
    (ended,) = await play(setting(critic=["maybe"]))
    assert (ended.status, ended.verdict, ended.rewards, ended.critiques) == ("failed", None, {}, ())
    assert ended.error.startswith("critique 'maybe': expected `ok`")
    assert len(ended.by("critic")) == 4


@pytest.mark.parametrize("params", [{"samples": 1}, {"revisions": 9}, {"sample": 3}])
def test_critique_refuses_parameters_out_of_range(params):
    with pytest.raises(ValueError, match=r"samples|revisions|sample"):
        load_protocol("critique").params(params)


# Determinism: keys, concurrency, jitter.


@pytest.mark.parametrize("name", ["critique", "duet"])
async def test_transcripts_are_the_same_at_any_concurrency(name, setting, play, make):
    if name == "duet":
        verdict = make.chance("Verdict: 0", "Verdict: 1")
        cast = {"left": reply, "right": reply, "judge": verdict}
        protocol = load_protocol("duet", HERE / "duet.py")
    else:
        protocol, cast = None, {"learner": make.chance("4", "5"), "critic": make.critic}
    runs = []
    for number, concurrency in enumerate((1, 7, 256)):
        scripts = {seat: make.jittered(script, number) for seat, script in cast.items()}
        wanted = make.plans(12, run=f"r{number}")
        runs.append(await play(setting(protocol, **scripts), wanted, concurrency))
    hashes = [[episode.transcript_hash for episode in run] for run in runs]
    assert hashes[0] == hashes[1] == hashes[2]
    assert len(set(hashes[0])) > 3


class Flaky(Exception):
    """What the nodes of these tests are tried again for."""


def attempts(runtime: Any) -> int:
    return runtime.execution_info.node_attempt


def maze(failing: bool = True) -> Protocol:
    """All that a protocol can do at once: fan-out, a child graph, keyed calls, a node that is
    tried again, siblings."""

    async def child_node(state: State, runtime: Runtime[Context]) -> Update:
        return {"turns": [await act(runtime, state, "a"), await act(runtime, state, "b")]}

    child = StateGraph(State, context_schema=Context)
    child.add_node("inner", child_node).add_edge(START, "inner").add_edge("inner", END)
    compiled = child.compile()

    async def fan(state: State, runtime: Runtime[Context]) -> Update:
        turn = await act(runtime, state, "a")
        with inside():
            nested = await compiled.ainvoke({**state, "turns": []}, context=runtime.context)
        return {"turns": [turn, *nested["turns"]]}

    async def flaky(state: State, runtime: Runtime[Context]) -> Update:
        both = [act(runtime, state, "b", key=name) for name in ("left", "right")]
        turns = await asyncio.gather(*both)
        turns.append(await act(runtime, state, "b", about=tuple(turns)))
        with inside():
            nested = await compiled.ainvoke({**state, "turns": []}, context=runtime.context)
        if failing and attempts(runtime) < 3:
            raise Flaky
        return {"turns": [*turns, *nested["turns"]]}

    async def spread(state: State) -> list[Send]:
        return [Send("fan", state) for _ in range(3)]

    def wire(graph: Any) -> None:
        retry = RetryPolicy(initial_interval=0.001, jitter=False, max_attempts=3, retry_on=Flaky)
        graph.add_node("fan", fan).add_node("twice", says("a", 2))
        graph.add_node("flaky", flaky, retry_policy=retry)
        graph.add_conditional_edges(START, spread, ["fan"]).add_edge(START, "flaky")
        graph.add_edge(["fan", "flaky"], "twice").add_edge("twice", "decide")

    return made(wire)


async def test_keys_are_unique_and_the_same_over_jittered_runs(setting, play, make, store):
    found = []
    for n in range(5):

        def plain(request):
            return f"{request.view.seat} {request.seed % 997}"

        cast = {seat: make.jittered(plain, n) for seat in "ab"}
        found += await play(setting(maze(), **cast), make.plans(6, run=f"r{n}"))
    assert {episode.error for episode in found} == {None}
    assert all(len(set(keys(episode))) == 3 * 3 + 5 + 2 for episode in found)
    assert len({tuple(keys(episode)) for episode in found}) == 1
    assert len({(episode.index, episode.transcript_hash) for episode in found}) == 6


async def test_keys_are_spelt_like_this(setting, play):
    (ended,) = await play(setting(maze(), a=reply, b=reply))
    assert keys(ended) == [
        "0001:fan:0000/0001:inner:0000/a:00",
        "0001:fan:0000/0001:inner:0000/b:00",
        "0001:fan:0000/a:00",
        "0001:fan:0001/0001:inner:0000/a:00",
        "0001:fan:0001/0001:inner:0000/b:00",
        "0001:fan:0001/a:00",
        "0001:fan:0002/0001:inner:0000/a:00",
        "0001:fan:0002/0001:inner:0000/b:00",
        "0001:fan:0002/a:00",
        "0001:flaky:0000/0001:inner:0000/a:00",
        "0001:flaky:0000/0001:inner:0000/b:00",
        "0001:flaky:0000/b:00",
        "0001:flaky:0000/b:left",
        "0001:flaky:0000/b:right",
        "0002:twice:0000/a:00",
        "0002:twice:0000/a:01",
    ]


async def test_a_node_that_is_tried_again_gets_the_answers_it_had(setting, play, make, store):
    asked: Counter[int] = Counter()

    def count(request):
        asked[request.seed] += 1
        return reply(request)

    (ended,) = await play(setting(maze(), a=count, b=count))
    assert ended.status == "done"
    assert set(asked.values()) == {1}
    assert len(asked) == len(ended.turns) == 16
    assert verify(store)[1] == []


async def test_retries_do_not_change_the_transcript(setting, play, make):
    plain = await play(setting(maze(failing=False), a=reply, b=reply), make.plans(1, run="x"))
    tried = await play(setting(maze(), a=reply, b=reply), make.plans(1, run="y"))
    assert plain[0].transcript_hash == tried[0].transcript_hash


async def test_a_retried_node_that_asks_something_else_fails_its_episode(setting, play):
    async def moody(state: State, runtime: Runtime[Context]) -> Update:
        await act(runtime, state, "a", instruction=f"attempt {attempts(runtime)}")
        raise Flaky

    retry = RetryPolicy(initial_interval=0.001, max_attempts=2, retry_on=Flaky)
    (ended,) = await play(setting(made(line(moody, retry_policy=retry)), a=reply))
    assert "was asked something else when its node was tried again" in ended.error


async def test_a_child_graph_called_twice_in_a_row_counts_on(setting, play):
    child = StateGraph(State, context_schema=Context)
    child.add_node("inner", says("a")).add_edge(START, "inner").add_edge("inner", END)
    compiled = child.compile()

    async def node(state: State, runtime: Runtime[Context]) -> Update:
        for _ in range(2):
            with inside():
                await compiled.ainvoke(state, context=runtime.context)
        return {"turns": []}

    (ended,) = await play(setting(made(line(node)), a=reply))
    assert [key[-4:] for key in keys(ended)] == ["a:00", "a:01"]


def test_call_seeds_do_not_depend_on_the_run(make, setting):
    first, second = make.plans(1, run="x")[0], make.plans(1, run="y")[0]
    assert setting().episode_id(first) == setting().episode_id(second)
    assert call_seed(1, "k") == call_seed(1, "k") != call_seed(1, "k", "salt")
    assert 0 <= call_seed(1, "k") < 2**63


async def test_samples_of_one_ask_differ_in_their_seeds_alone(setting, play):
    (ended,) = await play(setting(params={"revisions": 0}))
    answers = ended.by("learner")
    assert len({turn.seed for turn in answers}) == 4
    assert len({turn.messages for turn in answers}) == 1


# What a protocol must not do.


async def test_two_unkeyed_calls_of_a_seat_at_once_are_refused(setting, play):
    async def node(state: State, runtime: Runtime[Context]) -> Update:
        return {"turns": list(await asyncio.gather(*(act(runtime, state, "a") for _ in "12")))}

    (ended,) = await play(setting(made(line(node)), a=reply))
    assert ended.error == "a is asked twice at once in 0001:n0:0000: pass key=…"


@pytest.mark.parametrize("again", ["x", "00"])
async def test_two_calls_with_one_key_are_refused(again, setting, play, store):
    async def node(state: State, runtime: Runtime[Context]) -> Update:
        first = await act(runtime, state, "a", key=None if again == "00" else again)
        return {"turns": [first, await act(runtime, state, "a", key=again)]}

    (ended,) = await play(setting(made(line(node)), a=reply))
    assert ended.error == f"two calls are named 0001:n0:0000/a:{again}: pass another key=…"
    assert verify(store)[1] == []


async def test_a_seat_is_not_shown_what_it_may_not_see(setting, play):
    async def node(state: State, runtime: Runtime[Context]) -> Update:
        hidden = await act(runtime, state, "a", visible_to=("a",))
        await act(runtime, state, "b", about=(hidden,))
        return {"turns": [hidden]}

    (ended,) = await play(setting(made(line(node)), a=reply, b=reply))
    assert ended.error == "b was asked about 0001:n0:0000/a:00, which only a may see"
    assert len(ended.turns) == 1


async def test_a_protocol_without_a_verdict_fails_its_episode(setting, play):
    async def undecided(state: State) -> Update:
        return {"verdict": None}

    def wire(graph: Any) -> None:
        graph.add_edge(START, "decide").add_node("undo", undecided).add_edge("decide", "undo")

    (ended,) = await play(setting(made(wire), a=reply))
    assert (ended.status, ended.error) == ("failed", "test ended without a verdict")


async def test_calls_after_the_end_are_refused(setting, play, store):
    async def later(runtime: Any, state: State) -> None:
        await act(runtime, state, "b", key="first")
        await act(runtime, state, "b", key="second")

    async def node(state: State, runtime: Runtime[Context]) -> Update:
        background.append(asyncio.ensure_future(later(runtime, state)))
        return {"turns": [await act(runtime, state, "a")]}

    background: list[asyncio.Future[None]] = []

    async def slow(request):
        await asyncio.sleep(0.02)
        return "late"

    (ended,) = await play(setting(made(line(node)), a=reply, b=slow))
    (outcome,) = await asyncio.gather(*background, return_exceptions=True)
    assert "after the episode's end" in str(outcome)
    assert [key[-7:] for key in keys(ended)] == ["00/a:00", "b:first"]
    assert verify(store)[1] == []


# Failure is data.


async def test_a_raising_node_lets_its_siblings_calls_finish(setting, play, store):
    async def slow(request):
        await asyncio.sleep(0.03)
        return "in the end"

    raising = says("a", fail=ValueError("boom"))
    stage = setting(made(beside(bad=raising, good=says("b", 2))), a=reply, b=slow)
    (ended,) = await play(stage)
    assert (ended.status, ended.error) == ("failed", "ValueError: boom")
    assert [turn.text for turn in ended.by("b")] == ["in the end"]
    assert list(store.episodes("run")) == [ended]
    assert verify(store)[1] == []


async def test_a_model_that_fails_is_journalled_and_fails_its_episode_alone(
    setting, play, make, store
):
    def learner(request):
        if request.view.question.text == "3+3" and request.nth == 2:
            raise ConnectionError("gone")
        return "4"

    stage = setting(attacker=make.chance("2+2", "3+3"), learner=learner)
    ended = await play(stage, 12)
    failed = [episode for episode in ended if episode.turns[0].text == "3+3"]
    assert [e for e in ended if e.status == "failed"] == failed
    assert 0 < len(failed) < 12
    assert {e.error for e in failed} == {"ConnectionError: gone"}
    assert all([t.error for t in e.by("learner")].count(None) == 3 for e in failed)


async def test_a_model_that_gives_a_call_up_fails_its_episode(setting, play):
    async def quit(request):
        raise asyncio.CancelledError

    (ended,) = await play(setting(attacker=quit))
    assert ended.error == "the model gave this call up"


@pytest.mark.parametrize("answer", [None, 7, ["4"]])
async def test_what_is_no_text_fails_the_episode(answer, setting, play):
    (ended,) = await play(setting(attacker=lambda request: answer))
    assert ended.status == "failed"
    assert ended.error == f"scripted answered {answer!r}, which is no text"


@pytest.mark.parametrize("method", ["truth", "correct", "fault"])
async def test_a_world_that_raises_fails_the_episode_alone(method, setting, play, make):
    class Broken(make.Anything):
        pass

    def refuse(self, *_):
        raise OverflowError("too long")

    setattr(Broken, method, refuse)
    (ended,) = await play(setting(world=Broken()))
    assert (ended.status, ended.error) == ("failed", "OverflowError: too long")


@pytest.mark.parametrize("score", [lambda episode: {"a": 1 / 0}, lambda episode: {"a": "much"}])
async def test_a_score_that_raises_fails_the_episode_alone(score, setting, play, store):
    protocol = made(line(says("a")))
    protocol.score(score)
    ended = await play(setting(protocol, a=reply), 3)
    assert all(e.error.startswith(("ZeroDivisionError", "ValueError")) for e in ended)
    assert list(store.episodes("run")) == ended
    assert {len(episode.turns) for episode in ended} == {1}


async def test_an_episode_may_not_make_more_calls_than_its_limit(setting, play):
    (ended,) = await play(setting(calls=3))
    assert (ended.status, ended.error) == ("failed", "more than 3 calls in one episode")
    assert len(ended.turns) == 3


async def test_an_episode_may_not_make_more_steps_than_its_limit(setting, play):
    (ended,) = await play(setting(steps=2))
    assert ended.error.startswith("GraphRecursionError: ")


async def test_a_store_that_fails_ends_the_run(setting, play, store, monkeypatch):
    def full():
        raise StoreError("disk full")

    monkeypatch.setattr(store, "flush", full)
    with pytest.raises(StoreError, match="disk full"):
        await play(setting(), 300)
    monkeypatch.undo()


async def test_a_store_that_fails_marks_no_episode_as_failed(setting, play, store, monkeypatch):
    stage, flush, times = setting(), store.flush, iter(range(10**6))

    def sometimes():
        if next(times) >= 2:
            raise StoreError("disk full")
        flush()

    monkeypatch.setattr(store, "flush", sometimes)
    with pytest.raises(StoreError):
        await play(stage, 300)
    monkeypatch.undo()
    store.flush()
    assert store.count("run", "failed") == 0


# The truth and private text.


async def test_no_prompt_holds_the_target_and_private_text_reaches_its_seat_alone(
    setting, play, make, store
):
    private = {"a": "for a only", "b": "for b only"}
    plan = make.plans(1, target="the target", private=private)
    stage = setting(made(line(says("a"), says("b"))), a=reply, b=reply)
    (ended,) = await play(stage, plan)
    for turn in ended.turns:
        shown = str(list(store.messages(turn.messages).values()))
        assert "the target" not in shown
        assert {seat for seat in "ab" if private[seat] in shown} == {turn.seat}


async def test_graph_state_holds_no_target(setting, play, make):
    seen = []

    async def look(state: State, runtime: Runtime[Context]) -> Update:
        seen.append(repr(state) + repr(vars(runtime.context)))
        return {"turns": [await act(runtime, state, "a")]}

    await play(setting(made(line(look)), a=reply), make.plans(1, target="the target"))
    assert "the target" not in seen[0]


# Finding protocols.


def test_shipped_protocols_are_found_by_name():
    assert "critique" in shipped()
    assert [load_protocol(name).name for name in shipped()] == list(shipped())


def test_a_protocol_that_is_not_there_is_bad_input():
    with pytest.raises(BadInput, match=r"there are .*critique"):
        load_protocol("nonsense")
    with pytest.raises(BadInput, match=r"no protocol 'solo'; it has \['duet'\]"):
        load_protocol("solo", HERE / "duet.py")


@pytest.mark.parametrize("text", ["def", "1 / 0", "raise SystemExit", "from nowhere import x"])
def test_a_protocol_file_that_does_not_run_is_bad_input(tmp_path, text):
    (tmp_path / "p.py").write_text(text)
    with pytest.raises(BadInput, match=r"p\.py: \w+"):
        load_protocol("p", tmp_path / "p.py")


def test_a_user_protocol_is_under_40_lines():
    assert len((HERE / "duet.py").read_text().splitlines()) < 40


def test_the_hash_of_a_protocol_is_that_of_its_file(tmp_path):
    text = (HERE / "duet.py").read_text()
    (tmp_path / "a.py").write_text(text)
    (tmp_path / "b.py").write_text(text.replace("Argue that", "Claim that"))
    one, same, other = (
        load_protocol("duet", p) for p in (HERE / "duet.py", tmp_path / "a.py", tmp_path / "b.py")
    )
    assert one.hash == same.hash != other.hash


def test_parameters_without_a_default_must_be_given():
    def build(rounds: int, sides: list[str]) -> Any: ...

    protocol = Protocol("p", ("a",), build, "h")
    assert protocol.parameters == ("rounds", "sides")
    with pytest.raises(ValueError, match="rounds"):
        protocol.params({"sides": []})


def test_a_parameter_may_be_a_list():
    def build(sides: list[str]) -> Any:
        graph = StateGraph(State, context_schema=Context)
        return graph.add_node("decide", decide).add_edge(START, "decide").add_edge("decide", END)

    protocol = Protocol("p", ("a",), build, "h")
    assert protocol.graph({"sides": ["a"]}) is protocol.graph({"sides": ["a"]})
    assert protocol.graph({"sides": ["a"]}) is not protocol.graph({"sides": ["b"]})
