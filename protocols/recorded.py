"""recorded: a conversation that was once held, played again call by call.

    read -> speak -> decide
             ^  |
             +--+   (once for each line of the programme)

A clerk first reads out the programme: who spoke, in which order. Then each seat says what it is
recorded to have said, as any model would: so keys, messages and journal are made by running, and
such an episode replays, forks and is judged again like any other. A line of the programme is
`seat:kind`; on one line stand those who spoke at once, without hearing each other. The last line is
`closed` when the judge's last belief was its decision, else `open`.

Who quotes a hidden text has it as its private note; the judge never sees it. What a judge wrote to
the others is the questioner's: it stays as it was when another judge takes the judge's seat. A
judge's beliefs are shown to nobody.
"""

import asyncio
import math
import re
from collections.abc import Sequence
from typing import Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from . import Ask, Context, Episode, State, Turn, Unreadable, Update, Verdict, protocol

SIDES = ("debater_a", "debater_b")
"""Who argues for the first choice, and who for the second."""
SEATS = ("clerk", *SIDES, "questioner", "judge")
INSTRUCTIONS = {
    "programme": "Say who speaks, in which order.",
    "speech": "Argue for your answer. Quote the text where it helps you.",
    "feedback": "Say what you think so far, and ask what you want to know.",
    "belief": "debater_a argues for (0), debater_b for (1). How likely is each choice to be right?"
    " End with one line: `Belief: ` and the probability of each choice, in their order, between"
    " 0.01 and 0.99, adding up to 1.",
}
ENTRY = re.compile(rf"({'|'.join(SEATS[1:])}):([a-z]{{1,32}})")
EXAMPLE = """debater_a:speech debater_b:speech
judge:belief
questioner:feedback
closed"""


@protocol(seats=SEATS, replies={"programme": (EXAMPLE, "open"), "belief": ("Belief: 0.7 0.3",)})
def recorded() -> StateGraph[State, Context]:
    async def read(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("programme", instruction=INSTRUCTIONS["programme"], visible_to=("clerk",))
        return {"turns": [await runtime.context.cast["clerk"].act(state, ask)]}

    async def speak(state: State, runtime: Runtime[Context]) -> Update:
        cast, heard = runtime.context.cast, [t for t in state["turns"] if public(t)]
        order = ", ".join(turn.seat for turn in heard)
        before = f"Who spoke before, in order: {order}. " if heard else ""
        asks = {
            seat: Ask(kind, tuple(heard), before + INSTRUCTIONS.get(kind, f"Say your {kind}."))
            for seat, kind in programme(state)[state["round"]]
        }
        said = await asyncio.gather(*(cast[seat].act(state, ask) for seat, ask in asks.items()))
        return {"turns": list(said), "round": state["round"] + 1}

    async def more(state: State) -> Literal["speak", "decide"]:
        return "speak" if state["round"] < len(programme(state)) else "decide"

    async def decide(state: State) -> Update:
        beliefs = [turn for turn in state["turns"] if turn.kind == "belief"]
        if not closed(state):
            return {"verdict": Verdict(value="open", seat="judge")}
        if not beliefs:
            raise Unreadable("the programme says closed, but the judge never told a belief")
        choices = state["question"].choices
        held = parse_belief(beliefs[-1].text, len(choices))
        verdict = decision(held, beliefs[-1].key)
        answer = None if verdict.value == "undecided" else choices[int(verdict.value)]
        return {"verdict": verdict.model_copy(update={"answer": answer})}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("read", read).add_node("speak", speak).add_node("decide", decide)
    graph.add_edge(START, "read").add_conditional_edges("read", more)
    graph.add_conditional_edges("speak", more).add_edge("decide", END)
    return graph


def public(turn: Turn) -> bool:
    """Whether the others heard it."""
    return turn.visible_to is None and turn.kind != "belief"


def programme(state: State) -> list[list[tuple[str, str]]]:
    """What the clerk read: (seat, kind) of those who speak at once, line by line."""
    *lines, _ = state["turns"][0].text.splitlines() or [""]
    entries = [[ENTRY.fullmatch(entry) for entry in line.split(" ")] for line in lines]
    for line, found in zip(lines, entries, strict=True):
        seats = [entry[1] for entry in found if entry]
        if None in found or len(set(seats)) < len(found):
            raise Unreadable(f"programme {line!r}: expected seat:kind, each seat once a line")
    return [[(entry[1], entry[2]) for entry in found if entry] for found in entries]


def closed(state: State) -> bool:
    """Whether the programme ends with the judge's decision."""
    last = state["turns"][0].text.rpartition("\n")[2]
    if last not in ("closed", "open"):
        raise Unreadable(f"programme: the last line is {last!r}, expected `closed` or `open`")
    return last == "closed"


def parse_belief(text: str, choices: int) -> tuple[float, ...]:
    """A judge's reply: the probability of each choice."""
    line = text.strip().rpartition("\n")[2].lower().removeprefix("belief:")
    found = line.split()
    if len(found) == choices and all(re.fullmatch(r"0?\.[0-9]{1,6}", word) for word in found):
        held = tuple(map(float, found))
        if min(held) > 0 and abs(sum(held) - 1) < 0.011:
            return held
    raise Unreadable(
        f"belief {text!r}: expected {choices} probabilities between 0 and 1 that add up to 1"
    )


def decision(held: Sequence[float], turn: str | None = None) -> Verdict:
    """What a last belief decides: the likelier choice; `undecided` when none is."""
    best = max(held)
    value = str(held.index(best)) if held.count(best) == 1 else "undecided"
    return Verdict(value=value, seat="judge", turn=turn, confidence=best)


def earned(
    held: Sequence[float], right: int | None, sides: Sequence[str]
) -> dict[str, float | None]:
    """Judge: log2 of the probability that it gave the truth. A side: that of its own choice."""
    judge = None if right is None else math.log2(held[right])
    return {"judge": judge, **{seat: held[SIDES.index(seat)] for seat in sides}}


@recorded.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """As `earned` says; nobody earns anything, not even nothing, where nothing was decided."""
    assert episode.verdict is not None  # a failed episode is never scored
    sides = [seat for seat in SIDES if episode.by(seat)]
    if episode.verdict.turn is None:
        return dict.fromkeys(("judge", *sides))
    choices, truth = episode.question.choices, episode.truth
    held = parse_belief(episode.turn(episode.verdict.turn).text, len(choices))
    return earned(held, choices.index(truth) if truth in choices else None, sides)
