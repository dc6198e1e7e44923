"""call_it: a learner calls a coin.

call
"""

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from superalign.protocols import Ask, Context, State, Update, Verdict, protocol


@protocol(seats=("learner",))
def call_it(times: int = 1) -> StateGraph[State, Context]:
    async def call(state: State, runtime: Runtime[Context]) -> Update:
        seat = runtime.context.cast["learner"]
        turns = [await seat.act(state, Ask("answer")) for _ in range(times)]
        last = turns[-1]
        verdict = Verdict(value="called", seat="learner", turn=last.key, answer=last.text)
        return {"turns": turns, "verdict": verdict}

    graph = StateGraph(State, context_schema=Context)
    return graph.add_node("call", call).add_edge(START, "call").add_edge("call", END)
