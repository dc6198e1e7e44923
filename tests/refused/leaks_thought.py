"""leaks_thought: the judge reads what the consultant thought for itself.

think -> argue -> decide
"""

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from superalign.protocols import Ask, Context, State, Update, judged, protocol


@protocol(seats=("consultant", "judge"))
def leaks_thought() -> StateGraph[State, Context]:
    async def think(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("thought", visible_to=("consultant",))
        return {"turns": [await runtime.context.cast["consultant"].act(state, ask)]}

    async def argue(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("speech", about=tuple(state["turns"]))
        return {"turns": [await runtime.context.cast["consultant"].act(state, ask)]}

    async def decide(state: State, runtime: Runtime[Context]) -> Update:
        thought, speech = state["turns"]
        return await judged(state, runtime, [speech], f"It thought: {thought.text} Decide.")

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("think", think).add_node("argue", argue).add_node("decide", decide)
    graph.add_edge(START, "think").add_edge("think", "argue")
    graph.add_edge("argue", "decide").add_edge("decide", END)
    return graph
