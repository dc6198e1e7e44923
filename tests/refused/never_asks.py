"""never_asks: the consultant has a seat, and nobody asks it.

decide
"""

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from superalign.protocols import Context, State, Update, judged, protocol


@protocol(seats=("consultant", "judge"))
def never_asks() -> StateGraph[State, Context]:
    async def decide(state: State, runtime: Runtime[Context]) -> Update:
        return await judged(state, runtime, state["turns"])

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("decide", decide).add_edge(START, "decide").add_edge("decide", END)
    return graph
