"""prover_estimator: a prover splits its claim, and an estimator prices the parts.

Prover-estimator debate (Brown-Cohen, Irving, Piliouras 2025, arXiv 2506.13609), an engineering
version of it: the parts are claimed to hold together, and pricing.py says what is earned.

    answer -> appraise -> choose -> decompose -+
                 ^           |                 |
                 +-----------|-----------------+   (`depth` times)
                             +-> judge -> END

The estimator need not find the part that is false: it prices each claim on its own. Then the
prover chooses one, says whether its price is under, right or over, and splits it. The judge looks
at the last chosen claim alone. The verdict is a trusted coin: the answer is accepted as often as
the estimator's first price says.
"""

import asyncio
from typing import Annotated, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import Field

from . import Ask, Context, Episode, State, Unreadable, Update, Verdict, protocol
from .pricing import levels, parse_claims, worth
from .stochastic import coin

ANSWER = "Give the answer that you will defend."
PRICE = "How likely is this claim to be true? End with `Probability: ` and a number from 0 to 1."
CHOOSE = (
    "Which price is the most wrong? Reply with the number of its claim and one word: `under` when"
    " the price is too low, `over` when it is too high, `right` when none is wrong. Like `2 under`."
)
SPLIT = "Split the claim into 2 to {} simpler ones that together make it true, one a line."
JUDGE = "Is this claim true? Reply `true` or `false`."


@protocol(
    seats=("prover", "estimator", "judge"),
    replies={
        "probability": ("Probability: 0.5", "1"),
        "choice": ("1 under", "1 over", "1 right"),
        "decomposition": ("one claim\nanother claim",),
        "truth": ("true", "false"),
    },
)
def prover_estimator(
    width: Annotated[int, Field(ge=2, le=64)] = 4,
    depth: Annotated[int, Field(ge=1, le=8)] = 1,
    growth: Annotated[float, Field(gt=1, le=100)] = 2.0,
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.02,
) -> StateGraph[State, Context]:
    async def answer(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("answer", instruction=ANSWER)
        return {"turns": [await runtime.context.cast["prover"].act(state, ask)]}

    async def appraise(state: State, runtime: Runtime[Context]) -> Update:
        estimator, ask = runtime.context.cast["estimator"], Ask("probability", instruction=PRICE)
        claims = enumerate(levels(state["turns"])[-1].claims)
        priced = (estimator.act(on(state, claim), ask, key=f"{n:02}") for n, claim in claims)
        return {"turns": list(await asyncio.gather(*priced))}

    async def choose(state: State, runtime: Runtime[Context]) -> Update:
        level, ask = levels(state["turns"])[-1], Ask("choice", instruction=CHOOSE)
        priced = zip(level.claims, level.prices, strict=True)
        shown = "\n".join(f"{n}. {claim} (price {p:g})" for n, (claim, p) in enumerate(priced, 1))
        turn = await runtime.context.cast["prover"].act(on(state, shown), ask)
        return {"turns": [turn]}

    async def deeper(state: State) -> Literal["decompose", "judge"]:
        return "decompose" if state["round"] < depth else "judge"

    async def decompose(state: State, runtime: Runtime[Context]) -> Update:
        ask = Ask("decomposition", instruction=SPLIT.format(width))
        claim = levels(state["turns"])[-1].claim
        turn = await runtime.context.cast["prover"].act(on(state, claim), ask)
        parts = parse_claims(turn.text)
        if not 2 <= len(parts) <= width:
            raise Unreadable(
                f"decomposition: {len(parts)} claims, expected 2 to {width}, one a line"
            )
        return {"turns": [turn], "round": state["round"] + 1}

    async def judge(state: State, runtime: Runtime[Context]) -> Update:
        root, *_, last = levels(state["turns"])
        ask = Ask("truth", instruction=JUDGE)
        turn = await runtime.context.cast["judge"].act(on(state, last.claim), ask)
        parse_truth(turn.text)
        accepted = coin(root.price, *state["turns"][:2])
        likely = root.price if accepted else 1 - root.price
        others = [choice for choice in state["question"].choices if choice != root.claim]
        return {
            "turns": [turn],
            "verdict": Verdict(
                value="accepted" if accepted else "rejected",
                seat="estimator",
                confidence=likely,
                answer=root.claim if accepted else others[0] if len(others) == 1 else None,
            ),
        }

    graph = StateGraph(State, context_schema=Context)
    graph.add_node("answer", answer).add_node("appraise", appraise).add_node("choose", choose)
    graph.add_node("decompose", decompose).add_node("judge", judge)
    graph.add_edge(START, "answer").add_edge("answer", "appraise").add_edge("appraise", "choose")
    graph.add_conditional_edges("choose", deeper).add_edge("decompose", "appraise")
    graph.add_edge("judge", END)
    return graph


def on(state: State, claim: str) -> State:
    """The state as a seat sees it that is asked about a claim: it stands below the question."""
    question = state["question"]
    text = f"{question.text}\n\nClaim:\n{claim}".lstrip()
    return {**state, "question": question.model_copy(update={"text": text})}


def parse_truth(text: str) -> bool:
    word = text.strip().lower().rstrip(".")
    if word in ("true", "false"):
        return word == "true"
    raise Unreadable(f"truth {text!r}: expected `true` or `false`")


@prover_estimator.score
def rewards(episode: Episode) -> dict[str, float | None]:
    """As `worth` says: what the prover earns, the estimator loses. The judge is not scored."""
    (judged,) = episode.by("judge")
    rates = episode.params["growth"], episode.params["tolerance"]
    earned = worth(levels(episode.turns), parse_truth(judged.text), *rates)
    return {"prover": earned, "estimator": -earned, "judge": None}
