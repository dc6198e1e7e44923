"""examination: copies of the examinee that cannot hear each other answer the same questions.

Cross-examination by fresh copies, as debaters are questioned (Irving and Askell 2019; design of
systems 5.11): who makes things up must make them up twice alike.

    answer -> probe -> testify -> judge
               ^ |
               +-+   (`questions` times)

The examiner writes sub-questions about the claim, one after another, before any is answered. Each
of `copies` copies answers all of them; a call is shown the claim and one sub-question and nothing
else, so no copy knows what another one said. The judge sees all replies side by side, and is told
on how many questions the copies came to different results.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from . import Ask, Context, Critique, Episode, State, Turn, Update, Verdict, protocol
from .judging import sureness
from .readings import SOLVE, final, parse_right, settles

PROBE = (
    "Ask one short question about the answer whose reply its author must know, and cannot make up"
    " twice in the same way. Do not repeat a question."
)
TESTIFY = (
    "The answer is yours. Reply to the question about it."
    " End with one line: `Answer: ` and your reply in a few words."
)
JUDGE = (
    "Copies of the answer's author replied to the same questions without hearing each other."
    " They differ on {differ} of {asked} questions: that speaks against the answer."
    " Is it right? Your choice is `right` or `wrong`."
)


@protocol(
    seats=("examinee", "examiner", "judge"),
    replies={
        "answer": ("Answer: 0",),
        "subanswer": ("Answer: some", "Answer: other"),
        "verdict": ("Verdict: right", "Verdict: wrong"),
    },
)
def examination(
    questions: Annotated[int, Field(ge=1, le=8)] = 2,
    copies: Annotated[int, Field(ge=2, le=8)] = 2,
) -> StateGraph[State, Context]:
    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("answer", instruction=SOLVE)
        return {"turns": [await runtime.context.cast["examinee"].act(state, ask)]}

    async def probe(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("subquestion", tuple(state["turns"]), PROBE)
        turn = await runtime.context.cast["examiner"].act(state, ask)
        return {"turns": [turn], "round": state["round"] + 1}

    async def more(state: State) -> Literal["probe", "testify"]:
        return "probe" if state["round"] < questions else "testify"

    async def testify(state: State, runtime: Runtime[Context]) -> Update:
        claim, *asked = state["turns"]
        examinee = runtime.context.cast["examinee"]
        said = (
            examinee.act(state, Ask("subanswer", (claim, q), TESTIFY), key=f"{i:02}.{copy:02}")
            for i, q in enumerate(asked)
            for copy in range(copies)
        )
        return {"turns": list(await asyncio.gather(*said))}

    async def judge(state: State, runtime: Runtime[Context]) -> Update:
        turns, replies = state["turns"], answered(state["turns"])
        differ = contradictions(state["turns"])
        shown = [turns[0], *(t for q, said in replies for t in (q, *said))]
        words = JUDGE.format(differ=differ, asked=len(replies))
        turn = await runtime.context.cast["judge"].act(state, Ask("verdict", tuple(shown), words))
        right = parse_right(turn.text)
        value, sure = "right" if right else "wrong", sureness(turn)
        stands = settles(state["question"], turns[0], right)
        verdict = Verdict(value=value, seat="judge", turn=turn.key, confidence=sure, answer=stands)
        found = Critique(turn=turn.key, about=turns[0].key, fault=None if right else 1)
        return {"turns": [turn], "critiques": [found], "verdict": verdict}

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("answer", answer).add_node("probe", probe).add_node("testify", testify)
    graph.add_node("judge", judge).add_edge(START, "answer").add_edge("answer", "probe")
    graph.add_conditional_edges("probe", more).add_edge("testify", "judge")
    return graph.add_edge("judge", END)


def answered(turns: Iterable[Turn]) -> list[tuple[Turn, Sequence[Turn]]]:
    """Each sub-question with what the copies replied to it."""
    kinds = {kind: [t for t in turns if t.kind == kind] for kind in ("subquestion", "subanswer")}
    asked, said = kinds["subquestion"], kinds["subanswer"]
    n = len(said) // len(asked)
    return [(question, said[i * n : (i + 1) * n]) for i, question in enumerate(asked)]


def contradictions(turns: Iterable[Turn]) -> int:
    """On how many sub-questions the copies came to more than one result."""
    return sum(len({final(turn.text) for turn in said}) > 1 for _, said in answered(turns))


@examination.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """Examinee: the verdict, less the share of questions on which its copies differ. Examiner and
    judge: whether the verdict is what the answer is."""
    assert episode.verdict is not None  # a failed episode is never scored
    right, (claim, *_) = episode.verdict.value == "right", episode.by("examinee")
    truth = episode.facts.get("correct", {}).get(claim.key)
    agree = None if truth is None else float(right == truth)
    differ = contradictions(episode.turns) / episode.params["questions"]
    return {"examinee": right - differ, "examiner": agree, "judge": agree}
