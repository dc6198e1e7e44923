"""cross_examination: an examiner questions a claim turn by turn, then says if it is right.

LM vs LM (Cohen et al. 2023, arXiv 2305.13281): errors show as inconsistency, with no truth known.

    answer -> ask -> reply -> follow_up -> conclude
               ^                 |
               +---- has more ---+   (at most `follow_ups` times)

The examinee answers, and states its answer as a claim that can be read alone. The examiner never
sees the question: it asks sub-questions in one batch, reads the replies, and is asked whether it
has more. The examinee sees its claim and what it was asked before, and never the decision. Each
of `answers` answers is examined `examinations` times on its own; most verdicts decide.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from . import Ask, Context, Episode, Question, State, Turn, Update, Verdict, protocol
from .readings import SOLVE, flags, majority, parse_word, settles

CLAIM = "State your answer as one whole sentence that can be understood without the question."
ASK = (
    "Find out whether this claim is right. Ask the one who made it short questions about it that"
    " tell a right claim from a wrong one."
)
REPLY = "These questions are about your claim. Answer each of them."
FOLLOW_UP = "Do you have any follow-up questions about the claim? Reply `yes` or `no`."
MORE = "Ask your follow-up questions."
CONCLUDE = "From all replies: is the claim right? Your choice is `right` or `wrong`."


class Hearing(State):
    """State with the examinations that still go on, by name."""

    still: tuple[str, ...]


class Heard(Update, total=False):
    still: tuple[str, ...]


@protocol(
    seats=("examinee", "examiner"),
    replies={
        "answer": ("Answer: 0",),
        "follow_up": ("yes", "no"),
        "verdict": ("Verdict: right", "Verdict: wrong"),
    },
)
def cross_examination(
    follow_ups: Annotated[int, Field(ge=0, le=8)] = 2,
    examinations: Literal[1, 3, 5] = 1,
    answers: Annotated[int, Field(ge=1, le=8)] = 1,
) -> StateGraph[Hearing, Context]:
    names = tuple(f"{a:02}.{e:02}" for a in range(answers) for e in range(examinations))

    async def answer(state: Hearing, runtime: Runtime[Context]) -> Heard:
        examinee = runtime.context.cast["examinee"]

        async def one(a: int) -> tuple[Turn, Turn]:
            asked = Ask("answer", instruction=SOLVE)
            answered = await examinee.act(state, asked, key=f"{a:02}.answer")
            asked = Ask("claim", (answered,), CLAIM)
            return answered, await examinee.act(state, asked, key=f"{a:02}.claim")

        pairs = await asyncio.gather(*map(one, range(answers)))
        return {"turns": [turn for pair in pairs for turn in pair], "still": names}

    async def ask(state: Hearing, runtime: Runtime[Context]) -> Heard:
        asked = await examiner(state, runtime, "subquestion", MORE if state["round"] else ASK)
        return {"turns": asked, "round": state["round"] + 1}

    async def reply(state: Hearing, runtime: Runtime[Context]) -> Heard:
        examinee, still = runtime.context.cast["examinee"], state["still"]
        asks = [Ask("subanswer", heard(state, name), REPLY) for name in still]
        said = (examinee.act(state, a, key=name) for a, name in zip(asks, still, strict=True))
        return {"turns": list(await asyncio.gather(*said))}

    async def capped(state: Hearing) -> Literal["follow_up", "conclude"]:
        return "follow_up" if state["round"] <= follow_ups else "conclude"

    async def follow_up(state: Hearing, runtime: Runtime[Context]) -> Heard:
        said = await examiner(state, runtime, "follow_up", FOLLOW_UP)
        more = (parse_word(turn.text, "follow_up", ("yes", "no")) == "yes" for turn in said)
        still = zip(state["still"], more, strict=True)
        return {"turns": said, "still": tuple(name for name, goes_on in still if goes_on)}

    async def more(state: Hearing) -> Literal["ask", "conclude"]:
        return "ask" if state["still"] else "conclude"

    async def conclude(state: Hearing, runtime: Runtime[Context]) -> Heard:
        said = await examiner({**state, "still": names}, runtime, "verdict", CONCLUDE)
        return {"turns": said, **decided(state, said, examinations)}

    graph = StateGraph(Hearing, context_schema=Context)
    graph.add_node("answer", answer).add_node("ask", ask).add_node("reply", reply)
    graph.add_node("follow_up", follow_up).add_node("conclude", conclude)
    graph.add_edge(START, "answer").add_edge("answer", "ask").add_edge("ask", "reply")
    graph.add_conditional_edges("reply", capped).add_conditional_edges("follow_up", more)
    return graph.add_edge("conclude", END)


def heard(state: Hearing, name: str) -> tuple[Turn, ...]:
    """What one examination has heard so far: the claim, then questions and replies."""
    claim, kinds = f":{name[:2]}.claim", ("subquestion", "subanswer")
    ours = (t for t in state["turns"] if t.kind in kinds and t.key.endswith(f":{name}"))
    return (next(turn for turn in state["turns"] if turn.key.endswith(claim)), *ours)


async def examiner(state: Hearing, runtime: Runtime[Context], kind: str, words: str) -> list[Turn]:
    """Ask the examiner once in each examination that goes on, without showing the question."""
    seat = runtime.context.cast["examiner"]
    blind: Any = {**state, "question": Question(topic=state["question"].topic)}
    asks = {name: Ask(kind, heard(state, name), words) for name in state["still"]}
    said = (seat.act(blind, ask, key=name) for name, ask in asks.items())
    return list(await asyncio.gather(*said))


def decided(state: Hearing, said: Sequence[Turn], n: int) -> Update:
    """What most examinations of each answer say, and the answer that most of its own accept."""
    answers = [turn for turn in state["turns"] if turn.kind == "answer"]
    found = [majority(said[i * n : (i + 1) * n], about) for i, about in enumerate(answers)]
    shares = [share for _, share in found]
    best = shares.index(max(shares))
    critique, right = found[best][0], shares[best] > 0.5
    verdict = Verdict(
        value="right" if right else "wrong",
        seat="examiner",
        turn=critique.turn,
        confidence=critique.confidence,
        answer=settles(state["question"], answers[best], right),
    )
    return {"critiques": [critique for critique, _ in found], "verdict": verdict}


@cross_examination.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Examinee: share of its answers that survive. Examiner: share it judged as they are."""
    found, known = episode.critiques, flags(episode)
    return {
        "examinee": sum(critique.fault is None for critique in found) / len(found),
        "examiner": sum(said == so for said, so in known) / len(known) if known else None,
    }
