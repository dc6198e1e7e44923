"""open_consultancy: a consultant argues for the answer that it would itself give; a judge decides.

Kenton et al. 2024 (arXiv:2407.04622).

    choose -> speak -> judge   (`rounds` times; between rounds, if `interactive`, the judge asks)
               ^  |
               +-ask

The consultant first says to nobody which choice it holds to be right, and argues for that one. The
judge is told no more than in a consultancy: for which choice it argues.
"""

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from superalign.store.records import Row

from . import Context, Episode, State, Update, protocol, truthful, won
from .arguing import BestOf, Rounds, Sides, arguing, assigned, best_of_rows, choose, chosen
from .protocol import PromptOf


@protocol(seats=("consultant", "judge"), replies={"choice": ("0", "1")})
def open_consultancy(
    rounds: Rounds = 3, interactive: bool = False, quotes: bool = False, best_of: BestOf = 1
) -> StateGraph[State, Context]:
    async def ponder(state: State, runtime: Runtime[Context]) -> Update:
        assigned(state["question"], 0)  # nobody is asked where there is nothing to choose from
        return await choose(state, runtime, "consultant")

    def sides(state: State) -> Sides:
        return {"consultant": chosen(state["turns"], state["question"])}

    graph = arguing(sides, rounds, interactive=interactive, quotes=quotes, best_of=best_of)
    graph.add_node("choose", ponder)
    return graph.add_edge(START, "choose").add_edge("choose", "speak")


@open_consultancy.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """The consultant: whether its answer won. The judge: whether it is the truth."""
    side = chosen(episode.turns, episode.question)
    return {"consultant": won(episode, side), "judge": truthful(episode)}


@open_consultancy.rows
def rows(episode: Episode, seat: str, prompt_of: PromptOf) -> list[Row]:
    """Of each best-of-N claim, the best over the worst; see `best_of_rows`."""
    if seat != "consultant":
        return []
    return best_of_rows(episode, seat, chosen(episode.turns, episode.question), prompt_of)
