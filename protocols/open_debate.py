"""open_debate: a debater argues for the answer that it would itself give, another against it.

Kenton et al. 2024 (arXiv:2407.04622), open debate.

    choose -> speak -> judge   (`rounds` times; between rounds, if `interactive`, the judge asks)
               ^  |
               +-ask

debater_a, the protagonist, first says to nobody which choice it holds to be right. It argues for
that one, debater_b for the other. All else is as in debate.py.
"""

from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime

from superalign.store.records import Row

from . import Context, Episode, State, Update, protocol, truthful, won
from .arguing import (
    BestOf,
    Order,
    Rounds,
    Sides,
    arguing,
    best_of_rows,
    choose,
    chosen,
    opposed,
)
from .protocol import PromptOf

SEATS = ("debater_a", "debater_b")


@protocol(seats=(*SEATS, "judge"), replies={"choice": ("0", "1")})
def open_debate(
    rounds: Rounds = 3,
    order: Order = "simultaneous",
    interactive: bool = False,
    quotes: bool = False,
    best_of: BestOf = 1,
) -> StateGraph[State, Context]:
    async def ponder(state: State, runtime: Runtime[Context]) -> Update:
        opposed(state["question"])  # nobody is asked about what cannot be debated
        return await choose(state, runtime, SEATS[0])

    def sides(state: State) -> Sides:
        first = chosen(state["turns"], state["question"])
        return dict(zip(SEATS, opposed(state["question"], first), strict=True))

    graph = arguing(
        sides, rounds, order=order, interactive=interactive, quotes=quotes, best_of=best_of
    )
    graph.add_node("choose", ponder)
    return graph.add_edge(START, "choose").add_edge("choose", "speak")


@open_debate.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """A debater: whether its answer won. The judge: whether it is the truth."""
    sides = {seat: won(episode, side) for seat, side in standing(episode).items()}
    return {**sides, "judge": truthful(episode)}


@open_debate.rows
def rows(episode: Episode, seat: str, prompt_of: PromptOf) -> list[Row]:
    """Of each best-of-N claim, the best over the worst; see `best_of_rows`."""
    if seat not in SEATS:
        return []
    return best_of_rows(episode, seat, standing(episode)[seat], prompt_of)


def standing(episode: Episode) -> Sides:
    """Who argued for which choice."""
    first = chosen(episode.turns, episode.question)
    return dict(zip(SEATS, opposed(episode.question, first), strict=True))
