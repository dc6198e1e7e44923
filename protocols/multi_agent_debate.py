"""multi_agent_debate: copies of one solver answer, read each other, answer again, and vote.

Multi-agent debate for factuality and reasoning (Du et al. 2023, arXiv 2305.14325). No judge.

    answer -> decide
       |        ^
       +-> update <-+   (`updates` times)
              |     |
              +-----+

Each copy reads its own latest answer, then those of the others. `updates: 0` is the majority vote
without communication, the baseline that every figure needs; a cost-matched one has
`agents * (1 + updates)` copies and no update. Agreeing is not being right.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from superalign.store.records import Row

from . import (
    Ask,
    Context,
    Episode,
    Question,
    State,
    Turn,
    Unreadable,
    Update,
    Verdict,
    protocol,
    truthful,
)
from .protocol import PromptOf
from .readings import SOLVE, most, result, row, standing, whole

UPDATE = (
    "The first answer is your own, the others are those of other solvers. Take them as advice"
    " and check all of them. " + SOLVE
)


@protocol(seats=("learner",), replies={"answer": ("Answer: 0", "Answer: 1")})
def multi_agent_debate(
    agents: Annotated[int, Field(ge=2, le=32)] = 3,
    updates: Annotated[int, Field(ge=0, le=8)] = 1,
) -> StateGraph[State, Context]:
    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        learner, ask = runtime.context.cast["learner"], Ask("answer", instruction=SOLVE)
        drawn = (learner.act(state, ask, key=f"{i:02}") for i in range(agents))
        return {"turns": list(await asyncio.gather(*drawn))}

    async def update(state: State, runtime: Runtime[Context]) -> Update:
        learner, latest = runtime.context.cast["learner"], state["turns"][-agents:]

        async def one(i: int) -> Turn:
            about = (latest[i], *latest[:i], *latest[i + 1 :])
            return await learner.act(state, Ask("answer", about, UPDATE), key=f"{i:02}")

        turns = await asyncio.gather(*map(one, range(agents)))
        return {"turns": list(turns), "round": state["round"] + 1}

    async def more(state: State) -> Literal["update", "decide"]:
        return "update" if state["round"] < updates else "decide"

    async def decide(state: State) -> Update:
        question, last = state["question"], state["turns"][-agents:]
        best, share = most(results(question, last))
        if best is None:
            return {"verdict": Verdict(value="split", seat="learner", confidence=share)}
        stands = next(turn for turn in last if result(question, turn.text) == best)
        decided = standing(question, stands, confidence=share)
        return {"verdict": decided.model_copy(update={"turn": None})}  # the vote decided, no turn

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("answer", answer).add_node("update", update).add_node("decide", decide)
    graph.add_edge(START, "answer").add_conditional_edges("answer", more)
    graph.add_conditional_edges("update", more).add_edge("decide", END)
    return graph


def results(question: Question, turns: Iterable[Turn]) -> Iterator[str]:
    """What each answer comes to."""
    return (result(question, turn.text) for turn in turns)


def readable(question: Question, turn: Turn) -> str | None:
    """What an answer comes to; None where that cannot be read, which its copy may have mended."""
    try:
        return result(question, turn.text)
    except Unreadable:
        return None


def rounds(episode: Episode) -> list[Sequence[Turn]]:
    """The answers of each round, in the order of the copies."""
    n, turns = episode.params["agents"], episode.by("learner")
    return [turns[i : i + n] for i in range(0, len(turns), n)]


def measured(episode: Episode) -> dict[str, Any]:
    """Accuracy of each round, who was turned round, and how far the copies agreed."""
    held, right = rounds(episode), episode.facts["correct"]
    before, after = ([right[turn.key] for turn in held[i]] for i in (0, -1))
    return {
        "accuracy": [sum(right[turn.key] for turn in turns) / len(turns) for turns in held],
        "wrong_to_right": sum(b > a for a, b in zip(before, after, strict=True)),
        "right_to_wrong": sum(a > b for a, b in zip(before, after, strict=True)),
        "distinct": [len({readable(episode.question, t) for t in turns}) for turns in held],
    }


@multi_agent_debate.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """1 when what most copies say is right; nothing is earned where they split."""
    return {"learner": truthful(episode)}


@multi_agent_debate.rows
def learnt(episode: Episode, seat: str, prompt_of: PromptOf) -> Iterable[Row]:
    """The majority's answer: `sft`, and `pref` over each dissenting first answer, under the first
    prompt. Believed as far as the vote was wide; nothing is learnt where half or fewer agree.

    It is the earliest answer that says so: if a copy found it alone, it speaks of nobody else's.
    """
    verdict, question, held = episode.verdict, episode.question, rounds(episode)
    if episode.status != "done" or not verdict or verdict.answer is None:
        return
    best, share = most(results(question, held[-1]))
    came_to = {t.key: readable(question, t) for t in episode.by(seat) if whole(t)}
    agree = [t for t in episode.by(seat) if came_to.get(t.key) == best]
    if share <= 0.5 or not agree:
        return
    prompt, flip = prompt_of(held[0][0]), 1 - share
    yield row(episode, seat, prompt, agree[:1], held[-1], flip)
    dissent = {t.text: t for t in held[0] if came_to.get(t.key) not in (None, best)}
    for turn in dissent.values():
        yield row(episode, seat, prompt, (agree[0], turn), held[-1], flip)
