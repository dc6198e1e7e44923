"""direct: the learner answers, and what it answers is the verdict.

The control without any oversight (Kenton et al. 2024, arXiv:2407.04622, direct QA).

    answer

Of a question with choices the learner names one. To an open question it writes an answer, as a
whole the answer settled on; the verdict's value is what the answer ends in: its last working line,
which stands behind the last line break or semicolon.
"""

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from . import Context, Episode, State, Update, protocol, truthful
from .answering import draw


@protocol(seats=("learner",))
def direct() -> StateGraph[State, Context]:
    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        turn, verdict = await draw(state, runtime, "learner")
        return {"turns": [turn], "verdict": verdict}

    graph = StateGraph(State, context_schema=Context)
    return graph.add_node("answer", answer).add_edge(START, "answer").add_edge("answer", END)


@direct.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """The learner: whether its answer is right."""
    return {"learner": truthful(episode)}
