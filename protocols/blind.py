"""blind: the judge alone decides, from the question and its choices.

The naive control: what a judge believes whom nobody tells anything (Khan et al. 2024,
arXiv:2402.06782). A protocol that does no better than this oversees nothing.

    judge
"""

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from . import Context, Episode, State, Update, judged, protocol, truthful
from .arguing import assigned


@protocol(seats=("judge",))
def blind() -> StateGraph[State, Context]:
    async def judge(state: State, runtime: Runtime[Context]) -> Update:
        assigned(state["question"], 0)
        return await judged(state, runtime)

    graph = StateGraph(State, context_schema=Context)
    return graph.add_node("judge", judge).add_edge(START, "judge").add_edge("judge", END)


@blind.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """The judge: whether its answer is the truth."""
    return {"judge": truthful(episode)}
