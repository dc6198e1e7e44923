"""self_rewarding: the learner answers several times and judges each of its answers itself.

One round of self-rewarding language models (Yuan et al. 2024, arXiv 2401.10020).

    answer -> judge

Each answer is judged `judgements` times on its own, and their mean is its reward. The learner gives
0 to 5 points, one for each thing that the rubric asks for, or, with `by: critique`, looks for the
first wrong line as a critic does: 1 point if it finds none. What cannot be read does not count;
an answer of which nothing can be read has no reward. The best answer stands.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable
from statistics import fmean
from typing import Annotated, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from superalign.agents.parse import last_line
from superalign.store.errors import Unreadable
from superalign.store.records import Row

from . import Ask, Context, Critique, Episode, State, Turn, Update, parse_fault, protocol, truthful
from .protocol import PromptOf
from .readings import SOLVE, standing, whole

SCORE = (
    "Judge the answer. Give one point for each of these: it is about what was asked; it answers"
    " a good part of it; it answers all that matters usefully; it is clear and in good order, as an"
    " assistant writes; it is as good as an expert's, without anything to mend."
    " Say why in a few words. End with one line: `Score: ` and the points, from 0 to 5."
)
CRITICISE = "Which is the first wrong working line of the answer?"


@protocol(
    seats=("learner",),
    replies={"answer": ("Answer: 0", "Answer: 1"), "score": ("Score: 0", "Score: 5")},
)
def self_rewarding(
    samples: Annotated[int, Field(ge=2, le=64)] = 4,
    judgements: Annotated[int, Field(ge=1, le=16)] = 3,
    by: Literal["score", "critique"] = "score",
) -> StateGraph[State, Context]:
    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        learner, ask = runtime.context.cast["learner"], Ask("answer", instruction=SOLVE)
        drawn = (learner.act(state, ask, key=f"{i:02}") for i in range(samples))
        return {"turns": list(await asyncio.gather(*drawn))}

    async def judge(state: State, runtime: Runtime[Context]) -> Update:
        answers, learner = state["turns"], runtime.context.cast["learner"]
        words = SCORE if by == "score" else CRITICISE
        asks = {
            f"{i:02}.{nth:02}": Ask(by, (one,), words)
            for i, one in enumerate(answers)
            for nth in range(judgements)
        }
        said = await asyncio.gather(*(learner.act(state, a, key=key) for key, a in asks.items()))
        points = earned([*answers, *said])
        if not points:
            raise Unreadable(f"judgement {said[0].text!r}: none of {len(said)} can be read")
        best = max((one for one in answers if one.key in points), key=lambda one: points[one.key])
        found = [
            Critique(turn=turn.key, about=about.key, fault=parse_fault(turn.text))
            for about, turn in judged([*answers, *said])
            if by == "critique" and parse_points(turn) is not None
        ]
        verdict = standing(state["question"], best)
        return {"turns": list(said), "critiques": found, "verdict": verdict}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("answer", answer).add_node("judge", judge)
    return graph.add_edge(START, "answer").add_edge("answer", "judge").add_edge("judge", END)


def judged(turns: Iterable[Turn]) -> list[tuple[Turn, Turn]]:
    """Each judgement behind the answer that it is of."""
    answers = {t.key[-2:]: t for t in turns if t.kind == "answer"}
    return [(answers[t.key[-5:-3]], t) for t in turns if t.kind != "answer"]


def parse_points(turn: Turn) -> float | None:
    """The points of one judgement; None where they cannot be read."""
    if turn.kind == "score":
        found = re.fullmatch(r"([0-5](\.[0-9]{1,6})?)( ?/ ?5)?", last_line(turn.text, "score"))
        return float(found[1]) if found and float(found[1]) <= 5 else None
    try:
        return float(parse_fault(turn.text) is None)
    except Unreadable:
        return None


def earned(turns: Iterable[Turn]) -> dict[str, float]:
    """Answer -> mean points of its judgements that can be read, and of those of equal answers."""
    texts: dict[str, list[float]] = defaultdict(list)
    pairs = judged(turns)
    for about, turn in pairs:
        if (points := parse_points(turn)) is not None:
            texts[about.text].append(points)
    return {about.key: fmean(texts[about.text]) for about, _ in pairs if about.text in texts}


@self_rewarding.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """The learner: whether the answer that it finds best is right, where a world can tell."""
    return {"learner": truthful(episode)}


@self_rewarding.rows
def ranked(episode: Episode, seat: str, prompt_of: PromptOf) -> Iterable[Row]:
    """One `rank` row of all different answers that have a reward, the best first, also where all
    tie: the learner of that name counts ties."""
    if episode.status != "done" or seat != "learner":
        return
    points, pairs = earned(episode.turns), judged(episode.turns)
    texts: dict[str, Turn] = {}
    for turn in episode.by(seat, "answer"):
        if turn.key in points and whole(turn):
            texts.setdefault(turn.text, turn)
    if len(texts) < 2:
        return
    best = sorted(texts.values(), key=lambda turn: -points[turn.key])
    used = [*best, *(turn for about, turn in pairs if about.text in texts)]
    yield Row(
        kind="rank",
        seat=seat,
        prompt=prompt_of(best[0]),
        replies=tuple(turn.text for turn in best),
        rewards=tuple(points[turn.key] for turn in best),
        source=best[0].source,
        judge=best[0].policy,
        turns=tuple(dict.fromkeys(f"{episode.ref}/{turn.key}" for turn in used)),
        iteration=episode.iteration,
    )
