"""recursive_reward: an earlier agent helps a human to judge what a later one does.

One level of recursive reward modelling (Leike et al. 2018, arXiv:1811.07871).

    behave -> alone -> split -> assist -> judge

The learner, agent k, answers twice. The human says which answer is better: first `alone`, the audit
that no agent has touched, then with the findings of the assistant, agent k - 1, on each of the
`parts` questions that the human split the evaluation into. The assistant is not told the human's
first opinion. The next level is the next run, whose assistant is this run's learner, frozen.
"""

import asyncio
import re
from collections.abc import Iterable
from typing import Annotated

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from superalign.store.records import Row

from . import (
    Ask,
    Context,
    Episode,
    State,
    Turn,
    Unreadable,
    Update,
    Verdict,
    parse_choice,
    protocol,
)
from .protocol import PromptOf

BEHAVE = "Solve it step by step, one working line per line, the result last."
COMPARE = "Which answer to the question is better? Reply 0 for the first, 1 for the second."
SPLIT = (
    "Which {n} questions about the two answers, each easier than the whole, settle which is better?"
    " Reply with {n} lines, each a number from 1, a dot and a question."
)
ASSIST = "Answer part {n} of the evaluation. Say what in the answers shows it."
PART = re.compile(r"([0-9]{1,2})\. *(\S.*)")


@protocol(
    seats=("learner", "human", "assistant"),
    replies={"part": ("1. Is each line right?\n2. Does it end in the result?",)},
)
def recursive_reward(
    parts: Annotated[int, Field(ge=1, le=16)] = 2,
) -> StateGraph[State, Context]:
    async def behave(state: State, runtime: Runtime[Context]) -> Update:
        ask, learner = Ask(kind="answer", instruction=BEHAVE), runtime.context.cast["learner"]
        said = await asyncio.gather(*(learner.act(state, ask, key=f"{i}") for i in range(2)))
        return {"turns": list(said)}

    async def compare(state: State, runtime: Runtime[Context], *about: Turn) -> tuple[Turn, int]:
        ask = Ask("verdict", (*behaviours(state["turns"]), *about), COMPARE)
        turn = await runtime.context.cast["human"].act(state, ask)
        return turn, parse_choice(turn.text, 2)

    async def alone(state: State, runtime: Runtime[Context]) -> Update:
        turn, _ = await compare(state, runtime)
        return {"turns": [turn]}

    async def split(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("part", tuple(behaviours(state["turns"])), SPLIT.format(n=parts))
        turn = await runtime.context.cast["human"].act(state, ask)
        parse_parts(turn.text, parts)
        return {"turns": [turn]}

    async def assist(state: State, runtime: Runtime[Context]) -> Update:
        shown = (*behaviours(state["turns"]), state["turns"][-1])
        asks = [Ask("evidence", shown, ASSIST.format(n=i + 1)) for i in range(parts)]
        seat = runtime.context.cast["assistant"]
        found = (seat.act(state, ask, key=f"{i:02}") for i, ask in enumerate(asks))
        return {"turns": list(await asyncio.gather(*found))}

    async def judge(state: State, runtime: Runtime[Context]) -> Update:
        turn, better = await compare(state, runtime, *state["turns"][-parts - 1 :])
        answer = behaviours(state["turns"])[better].text
        verdict = Verdict(value=str(better), seat="human", turn=turn.key, answer=answer)
        return {"turns": [turn], "verdict": verdict}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("behave", behave).add_node("alone", alone).add_node("split", split)
    graph.add_node("assist", assist).add_node("judge", judge).add_edge(START, "behave")
    graph.add_edge("behave", "alone").add_edge("alone", "split").add_edge("split", "assist")
    return graph.add_edge("assist", "judge").add_edge("judge", END)


def behaviours(turns: Iterable[Turn]) -> list[Turn]:
    """The two answers that are compared."""
    return [turn for turn in turns if turn.kind == "answer"]


def parse_parts(text: str, parts: int) -> list[str]:
    """The questions that an evaluation was split into. Raises Unreadable."""
    found = [PART.fullmatch(line.strip()) for line in text.strip().splitlines()]
    numbers = [int(one[1]) for one in found if one]
    if None in found or numbers != list(range(1, parts + 1)):
        raise Unreadable(f"part {text!r}: expected {parts} lines, `1. …` to `{parts}. …`")
    return [one[2] for one in found if one]


def judgements(episode: Episode) -> tuple[bool, bool] | None:
    """Whether the human judged rightly alone, and with help. None where there is nothing to tell:
    both answers are right, or both wrong."""
    right = [episode.facts["correct"][turn.key] for turn in behaviours(episode.turns)]
    if right[0] == right[1]:
        return None
    alone, helped = (parse_choice(t.text, 2) for t in episode.by("human", "verdict"))
    return right[alone], right[helped]


@recursive_reward.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Human: whether its last judgement is right. Assistant: what its help changed, from -1 to 1.
    Learner: share of right answers."""
    right = [episode.facts["correct"][turn.key] for turn in behaviours(episode.turns)]
    judged, share = judgements(episode), sum(right) / len(right)
    if judged is None:
        return {"learner": share, "human": None, "assistant": None}
    alone, helped = judged
    return {"learner": share, "human": float(helped), "assistant": float(helped) - float(alone)}


@recursive_reward.rows
def preferred(episode: Episode, seat: str, prompt_of: PromptOf) -> Iterable[Row]:
    """Learner: the better answer before the worse. Human, the reward model: its last judgement, in
    a prompt that holds all the help it had."""
    assert episode.verdict is not None  # rows are made of finished episodes
    pair, last = behaviours(episode.turns), episode.by("human")[-1]
    texts, used = [turn.text for turn in pair], (*pair, last)
    common = {
        "seat": seat,
        "source": last.source,
        "judge": last.policy,
        "turns": tuple(f"{episode.ref}/{turn.key}" for turn in used),
        "iteration": episode.iteration,
    }
    if seat == "human":
        yield Row(kind="sft", prompt=prompt_of(last), replies=(last.text,), **common)
    elif seat == "learner" and len(set(texts)) > 1:
        better = int(episode.verdict.value)
        replies = texts[better], texts[1 - better]
        yield Row(kind="pref", prompt=prompt_of(pair[0]), replies=replies, **common)
