"""dcr: find the sentences that the document does not support, criticise those, refine the whole.

Detect, critique, refine (Wadhwa et al. 2024, arXiv 2407.02397). The document is the question.

    answer -> detect -> criticise -> refine
                | ^                    |
                | +--------------------+   (at most `rounds` times)
                +-> decide   (when nothing is flagged)

The detector sees one sentence a call. Only flagged ones reach the critic: a critic who is asked
about sound sentences invents errors, and who refines without detecting edits too much. The answer
with the fewest flags stands, the earliest of equals.
"""

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from superalign.store.records import Row

from . import Ask, Context, Episode, State, Turn, Update, protocol
from .detection import CLOSE, best, claim, passes, similar
from .protocol import PromptOf
from .readings import doubt, row, sentences, standing, whole

ANSWER = "Do what the question asks, by its document alone."
DETECT = (
    "Does the document support this sentence? End with one line: `Detection: supported` or"
    " `Detection: unsupported`."
)
CRITICISE = (
    "The claim is a sentence of the answer that the document does not support. Quote the words"
    " that are wrong, say why, and suggest a fix."
)
REFINE = "Write the whole answer again with these fixes. Change nothing else."


@protocol(
    seats=("learner", "detector", "critic", "refiner"),
    replies={
        "answer": ("Answer: 0",),
        "detection": ("Detection: supported", "Detection: unsupported"),
    },
)
def dcr(rounds: Annotated[int, Field(ge=1, le=8)] = 1) -> StateGraph[State, Context]:
    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("answer", instruction=ANSWER)
        return {"turns": [await runtime.context.cast["learner"].act(state, ask)]}

    async def each(
        state: State, runtime: Runtime[Context], seat: str, kind: str, words: str, which: Any
    ) -> list[Turn]:
        """Ask a seat about some sentences of the latest answer, each on its own."""
        latest, cast = passes(state["turns"])[-1].answer, runtime.context.cast
        claims = dict(enumerate(sentences(latest.text)))
        said = (
            cast[seat].act(state, Ask(kind, (latest, claim(latest, claims[i])), words), f"{i:03}")
            for i in (claims if which is None else which)
        )
        return list(await asyncio.gather(*said))

    async def detect(state: State, runtime: Runtime[Context]) -> Update:
        return {"turns": await each(state, runtime, "detector", "detection", DETECT, None)}

    async def flagged(state: State) -> Literal["criticise", "decide"]:
        more = state["round"] < rounds and passes(state["turns"])[-1].flags
        return "criticise" if more else "decide"

    async def criticise(state: State, runtime: Runtime[Context]) -> Update:
        flags = passes(state["turns"])[-1].flags
        return {"turns": await each(state, runtime, "critic", "review", CRITICISE, flags)}

    async def refine(state: State, runtime: Runtime[Context]) -> Update:
        latest, _, reviews = passes(state["turns"])[-1]
        ask = Ask("answer", (latest, *reviews), REFINE)
        turn = await runtime.context.cast["refiner"].act(state, ask)
        return {"turns": [turn], "round": state["round"] + 1}

    async def decide(state: State) -> Update:
        return {"verdict": standing(state["question"], best(passes(state["turns"])).answer)}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("answer", answer).add_node("detect", detect).add_node("criticise", criticise)
    graph.add_node("refine", refine).add_node("decide", decide).add_edge(START, "answer")
    graph.add_edge("answer", "detect").add_conditional_edges("detect", flagged)
    graph.add_edge("criticise", "refine").add_edge("refine", "detect").add_edge("decide", END)
    return graph


@dcr.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Learner: share of its sentences that no detector flagged. Critic and refiner: by how much
    that share grew. Detector: nothing; it has no opponent."""
    shares = [1 - len(one.flags) / len(one.said) for one in passes(episode.turns)]
    grown = shares[-1] - shares[0] if len(shares) > 1 else None
    return {"learner": shares[0], "critic": grown, "refiner": grown, "detector": None}


@dcr.rows
def learnt(episode: Episode, seat: str, prompt_of: PromptOf) -> Iterable[Row]:
    """From a step that left fewer flags and stayed close to the text: for the learner `pref` of
    the new answer over its own, for critic and refiner `sft` of what they wrote."""
    if episode.status != "done":
        return
    for before, after in pairwise(passes(episode.turns)):
        if len(after.flags) >= len(before.flags) or similar(before.answer, after.answer) < CLOSE:
            continue
        old, new, judged = before.answer, after.answer, (*before.said, *after.said)
        flip = doubt(judged)
        if seat == old.seat and whole(new, old) and flip < 0.5:
            yield row(episode, seat, prompt_of(old), (new, old), judged, flip)
        wrote = {"critic": before.reviews, "refiner": [new]}.get(seat, [])
        for turn in filter(whole, wrote):
            yield row(episode, seat, prompt_of(turn), (turn,), judged)
