"""self_refine: a model criticises its own answer and writes it again; the best one is kept.

Self-Refine (Madaan et al. 2023, arXiv 2303.17651), with a judge who keeps it from getting worse.

    answer -> feedback -> refine -> compare
                 |  ^                  |
                 |  +------------------+   (at most `refinements` times)
                 +-> decide                (at once when the feedback is `ok`)

Learner and critic are meant to be one model. The learner sees all answers and all feedback so far.
Self-correction without a signal from outside can lower accuracy, so after each step an independent
judge compares the new answer with the best so far, in both orders. Only a new answer that wins
both times becomes the best: that is what stands in the end, not the last.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from superalign.store.records import Row

from . import Ask, Context, Critique, Episode, State, Turn, Update, parse_fault, protocol, truthful
from .protocol import PromptOf
from .readings import SOLVE, doubt, parse_word, row, standing, whole

FEEDBACK = (
    "Say what is wrong with the last answer and how to mend it, as precisely as you can."
    " Say `ok` only if nothing is."
)
REFINE = "Use all feedback and write the whole answer again. " + SOLVE
COMPARE = (
    "Which of the two answers is better? End with one line: `Comparison: first` or"
    " `Comparison: second`."
)


@protocol(
    seats=("learner", "critic", "judge"),
    replies={
        "answer": ("Answer: 0",),
        "comparison": ("Comparison: first", "Comparison: second"),
    },
)
def self_refine(
    refinements: Annotated[int, Field(ge=1, le=8)] = 4,
) -> StateGraph[State, Context]:
    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("answer", instruction=SOLVE)
        return {"turns": [await runtime.context.cast["learner"].act(state, ask)]}

    async def feedback(state: State, runtime: Runtime[Context]) -> Update:
        about = history(state["turns"])
        turn = await runtime.context.cast["critic"].act(state, Ask("critique", about, FEEDBACK))
        found = Critique(turn=turn.key, about=about[-1].key, fault=parse_fault(turn.text))
        return {"turns": [turn], "critiques": [found]}

    async def faulty(state: State) -> Literal["refine", "decide"]:
        done = state["round"] == refinements or state["critiques"][-1].fault is None
        return "decide" if done else "refine"

    async def refine(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("answer", history(state["turns"]), REFINE)
        turn = await runtime.context.cast["learner"].act(state, ask)
        return {"turns": [turn], "round": state["round"] + 1}

    async def compare(state: State, runtime: Runtime[Context]) -> Update:
        *_, new = answers(state["turns"])
        pair, judge = (best(state["turns"]), new), runtime.context.cast["judge"]
        asks = Ask("comparison", pair, COMPARE), Ask("comparison", pair[::-1], COMPARE)
        said = (judge.act(state, ask, key=f"{i:02}") for i, ask in enumerate(asks))
        return {"turns": list(await asyncio.gather(*said))}

    async def decide(state: State) -> Update:
        return {"verdict": standing(state["question"], best(state["turns"]))}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("answer", answer).add_node("feedback", feedback).add_node("refine", refine)
    graph.add_node("compare", compare).add_node("decide", decide)
    graph.add_edge(START, "answer").add_edge("answer", "feedback")
    graph.add_conditional_edges("feedback", faulty).add_edge("refine", "compare")
    return graph.add_edge("compare", "feedback").add_edge("decide", END)


def history(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """All answers and feedback, without what the judge said."""
    return tuple(turn for turn in turns if turn.kind in ("answer", "critique"))


def answers(turns: Iterable[Turn]) -> list[Turn]:
    """All answers in order."""
    return [turn for turn in turns if turn.kind == "answer"]


def comparisons(turns: Sequence[Turn]) -> list[tuple[Turn, Turn, tuple[Turn, ...]]]:
    """Of each step: the best answer before, the new one, and the judge's words in both orders."""
    (best, *later), found = answers(turns), []
    said = [turn for turn in turns if turn.kind == "comparison"]
    for new, *words in zip(later, said[::2], said[1::2], strict=False):  # the last may be new yet
        found.append((best, new, tuple(words)))
        best = new if better(words) else best
    return found


def better(words: Sequence[Turn]) -> bool:
    """Whether the new answer won in both orders."""
    places = [parse_word(turn.text, "comparison", ("first", "second")) for turn in words]
    return places == ["second", "first"]


def best(turns: Sequence[Turn]) -> Turn:
    """The answer that stands."""
    won = [new for _, new, words in comparisons(turns) if better(words)]
    return won[-1] if won else answers(turns)[0]


@self_refine.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Learner: the kept answer is right. Critic: share of its words on answers that are true.
    Judge: share of right choices where one of the two answers is right and the other is not."""
    right = episode.facts.get("correct", {})
    agree = [(c.fault is None) == right[c.about] for c in episode.critiques if c.about in right]
    pairs = [(right.get(b.key), right.get(n.key), w) for b, n, w in comparisons(episode.turns)]
    chosen = [better(words) == new for old, new, words in pairs if old != new]
    return {
        "learner": truthful(episode),
        "critic": sum(agree) / len(agree) if agree else None,
        "judge": sum(chosen) / len(chosen) if chosen else None,
    }


@self_refine.rows
def learnt(episode: Episode, seat: str, prompt_of: PromptOf) -> Iterable[Row]:
    """`pref` of the kept answer over the first one, where the judge chose it in both orders."""
    if episode.status != "done" or seat != "learner":
        return
    kept, first = best(episode.turns), answers(episode.turns)[0]
    if kept.text != first.text and whole(kept, first):
        judged = [t for _, new, words in comparisons(episode.turns) for t in words if better(words)]
        flip = doubt(judged)
        if flip < 0.5:
            yield row(episode, seat, prompt_of(first), (kept, first), judged, flip)
