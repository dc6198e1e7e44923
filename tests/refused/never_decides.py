"""never_decides: a consultant may talk its way past the judge.

argue -> decide
  |
  +-> END       (when the critique finds a fault)
"""

from typing import Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from superalign.protocols import Ask, Context, State, Update, judged, protocol


@protocol(seats=("consultant", "judge"))
def never_decides() -> StateGraph[State, Context]:
    async def argue(state: State, runtime: Runtime[Context]) -> Update:
        seat = runtime.context.cast["consultant"]
        return {"turns": [await seat.act(state, Ask("critique"))]}

    async def decide(state: State, runtime: Runtime[Context]) -> Update:
        return await judged(state, runtime, state["turns"])

    async def judge_or_leave(state: State) -> Literal["decide", "__end__"]:
        return "decide" if state["turns"][-1].text.endswith("ok") else "__end__"

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("argue", argue).add_node("decide", decide).add_edge(START, "argue")
    graph.add_conditional_edges("argue", judge_or_leave, ["decide", END])
    graph.add_edge("decide", END)
    return graph
