"""never_ends: a judge that finds the second answer right is asked again for ever.

argue -> decide <-+      (while the verdict is 1)
"""

from typing import Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from superalign.protocols import Ask, Context, State, Update, judged, protocol


@protocol(seats=("consultant", "judge"))
def never_ends() -> StateGraph[State, Context]:
    async def argue(state: State, runtime: Runtime[Context]) -> Update:
        seat = runtime.context.cast["consultant"]
        return {"turns": [await seat.act(state, Ask("speech"))]}

    async def decide(state: State, runtime: Runtime[Context]) -> Update:
        return await judged(state, runtime, state["turns"])

    async def again(state: State) -> Literal["argue", "__end__"]:
        return "argue" if state["verdict"] and state["verdict"].value == "1" else "__end__"

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("argue", argue).add_node("decide", decide)
    graph.add_edge(START, "argue").add_edge("argue", "decide")
    graph.add_conditional_edges("decide", again, ["argue", END])
    return graph
