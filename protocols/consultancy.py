"""consultancy: one consultant argues for the answer it was given, right or wrong; a judge decides.

The control of debate: Khan et al. 2024 (arXiv:2402.06782), Kenton et al. 2024 (arXiv:2407.04622).

    speak -> judge   (`rounds` times; between rounds, if `interactive`, the judge asks)
     ^  |
     +-ask

`side` is the choice to argue for. Where the order of choices says nothing of the truth, it is the
right one every other time; who wants both of each question plays it with `side` 0 and 1.
"""

from langgraph.graph import START, StateGraph

from superalign.store.records import Row

from . import Context, Episode, State, protocol, truthful, won
from .arguing import BestOf, Rounds, Side, Sides, arguing, assigned, best_of_rows
from .protocol import PromptOf


@protocol(seats=("consultant", "judge"))
def consultancy(
    rounds: Rounds = 3,
    side: Side = 0,
    interactive: bool = False,
    quotes: bool = False,
    best_of: BestOf = 1,
) -> StateGraph[State, Context]:
    def sides(state: State) -> Sides:
        return {"consultant": assigned(state["question"], side)}

    graph = arguing(sides, rounds, interactive=interactive, quotes=quotes, best_of=best_of)
    return graph.add_edge(START, "speak")


@consultancy.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """The consultant: whether its answer won. The judge: whether it is the truth."""
    return {"consultant": won(episode, episode.params["side"]), "judge": truthful(episode)}


@consultancy.rows
def rows(episode: Episode, seat: str, prompt_of: PromptOf) -> list[Row]:
    """Of each best-of-N claim, the best over the worst; see `best_of_rows`."""
    if seat != "consultant":
        return []
    return best_of_rows(episode, seat, episode.params["side"], prompt_of)
