"""debate: two debaters argue for the two answers, a judge who knows less decides.

Khan et al. 2024 (arXiv:2402.06782); Kenton et al. 2024 (arXiv:2407.04622).

    speak -> judge   (`rounds` times; between rounds, if `interactive`, the judge asks)
     ^  |
     +-ask

debater_a argues for the first choice, debater_b for the second. In a `simultaneous` round neither
hears the other's claim of that round; in a `sequential` one debater_b does. See arguing.py for the
nodes, and for what `quotes` and `best_of` do.
"""

from langgraph.graph import START, StateGraph

from superalign.store.records import Row

from . import Context, Episode, State, protocol, truthful, won
from .arguing import BestOf, Order, Rounds, Sides, arguing, best_of_rows, opposed
from .protocol import PromptOf

SEATS = ("debater_a", "debater_b")


@protocol(seats=(*SEATS, "judge"))
def debate(
    rounds: Rounds = 3,
    order: Order = "simultaneous",
    interactive: bool = False,
    quotes: bool = False,
    best_of: BestOf = 1,
) -> StateGraph[State, Context]:
    def sides(state: State) -> Sides:
        return dict(zip(SEATS, opposed(state["question"]), strict=True))

    graph = arguing(
        sides, rounds, order=order, interactive=interactive, quotes=quotes, best_of=best_of
    )
    return graph.add_edge(START, "speak")


@debate.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """A debater: whether its answer won. The judge: whether it is the truth."""
    sides = {seat: won(episode, side) for side, seat in enumerate(SEATS)}
    return {**sides, "judge": truthful(episode)}


@debate.rows
def rows(episode: Episode, seat: str, prompt_of: PromptOf) -> list[Row]:
    """Of each best-of-N claim, the best over the worst; see `best_of_rows`.

    One claim a turn yields none. The winner's claims answer other prompts than the loser's, and
    that one side won does not tell which words were the better ones for either.
    """
    return best_of_rows(episode, seat, SEATS.index(seat), prompt_of) if seat in SEATS else []
