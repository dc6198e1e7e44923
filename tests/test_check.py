"""check_protocol passes what is sound and names what is not: kind, node, secret, seat."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from superalign.protocols import (
    Ask,
    Context,
    Protocol,
    State,
    Update,
    Verdict,
    load_protocol,
    shipped,
)
from superalign.protocols.check import check_protocol

HERE = Path(__file__).parent


def sat(wire: Any, *seats: str, **replies: tuple[str, ...]) -> Protocol:
    """A protocol of a consultant and a judge; `wire` connects its nodes."""

    def build() -> StateGraph[State, Context]:
        graph = StateGraph(State, context_schema=Context)
        wire(graph)
        return graph

    return Protocol("sat", seats or ("consultant", "judge"), build, "hash", dict(replies))


def asks(seat: str, kind: str = "answer", **ask: Any) -> Any:
    async def node(state: State, runtime: Runtime[Context]) -> Update:
        return {"turns": [await runtime.context.cast[seat].act(state, Ask(kind=kind, **ask))]}

    return node


async def rule(state: State, runtime: Runtime[Context]) -> Update:
    turn = await runtime.context.cast["judge"].act(state, Ask(kind="verdict"))
    return {"turns": [turn], "verdict": Verdict(value=turn.text, seat="judge", turn=turn.key)}


def argue_then_rule(argue: Any, rule: Any = rule) -> Any:
    def wire(graph: Any) -> None:
        graph.add_node("argue", argue).add_node("rule", rule)
        graph.add_edge(START, "argue").add_edge("argue", "rule").add_edge("rule", END)

    return wire


async def problems(protocol: Protocol) -> set[tuple[str, str, str]]:
    report = await check_protocol(protocol, protocol.params({}))
    assert report.ok == (not report.problems)
    return {(found.kind, found.where, found.message) for found in report.problems}


# Sound ones.


@pytest.mark.parametrize("name", shipped())
async def test_every_shipped_protocol_passes(name):
    assert await problems(load_protocol(name)) == set()


@pytest.mark.parametrize(("params", "calls"), [({}, 17), ({"samples": 2, "revisions": 3}, 17)])
async def test_the_most_calls_of_an_episode_are_counted(params, calls):
    critique = load_protocol("critique")
    report = await check_protocol(critique, critique.params(params))
    assert report.max_calls == calls


async def test_a_protocol_of_39_lines_passes():
    duet = load_protocol("duet", HERE / "duet.py")
    assert await problems(duet) == set()
    assert (await check_protocol(duet, {"rounds": 3})).max_calls == 7


async def test_a_hidden_turn_that_stays_hidden_passes():
    async def think_and_speak(state: State, runtime: Runtime[Context]) -> Update:
        seat = runtime.context.cast["consultant"]
        thought = await seat.act(state, Ask(kind="answer", visible_to=("consultant",)))
        return {"turns": [await seat.act(state, Ask(kind="claim", about=(thought,)))]}

    assert await problems(sat(argue_then_rule(think_and_speak))) == set()


async def test_a_protocol_may_declare_the_replies_of_its_own_kinds():
    async def pick(state: State, runtime: Runtime[Context]) -> Update:
        turn = await runtime.context.cast["consultant"].act(state, Ask(kind="side"))
        return {"turns": [turn], "round": {"pro": 0, "con": 1}[turn.text]}

    assert await problems(sat(argue_then_rule(pick), side=("pro", "con"))) == set()
    undeclared = await problems(sat(argue_then_rule(pick)))
    assert ("error", "argue") in {(kind, where) for kind, where, _ in undeclared}


# Leaky ones. Text that a node puts into an instruction by hand escapes the view; not the check.


async def test_another_seat_s_private_note_in_an_instruction_is_a_leak():
    async def leak(state: State, runtime: Runtime[Context]) -> Update:
        judge: Any = runtime.context.cast["judge"]
        note = judge._stage().plan.task.private["consultant"]
        turn = await judge.act(state, Ask(kind="verdict", instruction=f"A hint: {note}"))
        return {"turns": [turn], "verdict": Verdict(value=turn.text, seat="judge")}

    assert await problems(sat(argue_then_rule(asks("consultant"), leak))) == {
        ("leak", "rule", "private note of consultant reached judge; only consultant may see it")
    }


async def test_the_target_in_an_instruction_is_a_leak():
    async def leak(state: State, runtime: Runtime[Context]) -> Update:
        seat: Any = runtime.context.cast["consultant"]
        ask = Ask(kind="answer", instruction=f"Say {seat._stage().plan.task.target}.")
        return {"turns": [await seat.act(state, ask)]}

    assert await problems(sat(argue_then_rule(leak))) == {
        ("leak", "argue", "the target reached consultant; no seat may see it")
    }


async def test_a_hidden_turn_quoted_in_an_instruction_is_a_leak():
    async def leak(state: State, runtime: Runtime[Context]) -> Update:
        cast = runtime.context.cast
        thought = await cast["consultant"].act(state, Ask(kind="answer", visible_to=()))
        turn = await cast["judge"].act(state, Ask(kind="verdict", instruction=thought.text))
        return {"turns": [turn], "verdict": Verdict(value=turn.text, seat="judge")}

    assert await problems(sat(argue_then_rule(asks("consultant"), leak))) == {
        ("leak", "rule", "a turn of consultant reached judge; only consultant may see it")
    }


async def test_a_hidden_turn_passed_on_as_the_question_is_a_leak():
    async def leak(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask(kind="answer", visible_to=("consultant",))
        turn = await runtime.context.cast["consultant"].act(state, ask)
        return {"question": state["question"].model_copy(update={"text": turn.text})}

    assert await problems(sat(argue_then_rule(leak))) == {
        ("leak", "rule", "a turn of consultant reached judge; only consultant may see it")
    }


async def test_a_hidden_turn_shown_by_its_handle_is_refused_by_the_kernel():
    async def leak(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask(kind="answer", visible_to=("consultant",))
        turn = await runtime.context.cast["consultant"].act(state, ask)
        await runtime.context.cast["judge"].act(state, Ask(kind="answer", about=(turn,)))
        return {"turns": [turn]}

    found = await problems(sat(argue_then_rule(leak)))
    what = "judge was asked about 0001:argue:0000/consultant:00, which only consultant may see"
    assert ("error", "argue", what) in found


# Broken ones.


async def test_an_endless_loop_is_refused():
    async def again(state: State) -> str:
        return "rule" if state["round"] else "argue"

    def wire(graph: Any) -> None:
        graph.add_node("argue", asks("consultant")).add_node("rule", rule)
        graph.add_edge(START, "argue").add_edge("rule", END)
        graph.add_conditional_edges("argue", again, ["argue", "rule"])

    found = await problems(sat(wire))
    assert ("endless loop", "argue") in {(kind, where) for kind, where, _ in found}


async def test_a_loop_that_only_some_replies_make_endless_is_refused():
    async def again(state: State) -> str:
        return "argue" if "1" in state["turns"][-1].text.splitlines()[-1] else "rule"

    def wire(graph: Any) -> None:
        graph.add_node("argue", asks("consultant", "critique")).add_node("rule", rule)
        graph.add_edge(START, "argue").add_edge("rule", END)
        graph.add_conditional_edges("argue", again, ["argue", "rule"])

    found = await problems(sat(wire))
    assert ("endless loop", "argue") in {(kind, where) for kind, where, _ in found}


async def test_a_silent_seat_is_refused():
    assert await problems(sat(argue_then_rule(asks("judge")))) == {
        ("silent seat", "consultant", "no rehearsal ever asked this seat")
    }


async def test_a_way_without_a_verdict_is_refused():
    async def short(state: State) -> str:
        return "rule" if "1" in state["turns"][-1].text.splitlines()[-1] else END

    def wire(graph: Any) -> None:
        graph.add_node("argue", asks("consultant", "critique")).add_node("rule", rule)
        graph.add_edge(START, "argue").add_edge("rule", END)
        graph.add_conditional_edges("argue", short, ["rule", END])

    assert await problems(sat(wire)) == {
        ("no verdict", "END", "sat ended without a verdict"),
        (
            "no verdict",
            "END",
            "no node on this way writes a verdict: __start__ -> argue -> __end__",
        ),
    }


async def test_an_end_that_cannot_be_reached_is_refused():
    async def stray(state: State) -> str:
        return "argue" if "1" in state["turns"][-1].text.splitlines()[-1] else END

    def wire(graph: Any) -> None:
        graph.add_node("rule", rule).add_node("argue", asks("consultant")).add_node("on", rule)
        graph.add_edge(START, "rule").add_conditional_edges("rule", stray, ["argue", END])
        graph.add_edge("argue", "on").add_edge("on", "argue")

    found = await problems(sat(wire))
    for node in ("argue", "on"):
        assert ("no end", node, "END cannot be reached from here") in found


async def test_two_unkeyed_calls_at_once_are_refused():
    async def both(state: State, runtime: Runtime[Context]) -> Update:
        seat = runtime.context.cast["consultant"]
        turns = await asyncio.gather(*(seat.act(state, Ask(kind="answer")) for _ in "12"))
        return {"turns": list(turns)}

    found = await problems(sat(argue_then_rule(both)))
    what = "consultant is asked twice at once in 0001:argue:0000: pass key=…"
    assert ("error", "argue", what) in found


async def test_a_check_stores_nothing_and_calls_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    await problems(load_protocol("critique"))
    assert list(tmp_path.iterdir()) == []
