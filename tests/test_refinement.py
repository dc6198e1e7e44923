"""Prover-verifier games pay as their paper says; a tree of refinements ends, and teaches a pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.protocols import Unreadable, load_protocol
from superalign.protocols.persuasion import convincing, gated, persuasion_rows, signed
from superalign.protocols.prover_verifier import parse_score, solutions
from superalign.store import BadInput, Message

# Prover-verifier games


@pytest.mark.parametrize(
    ("rule", "helpful", "expected"),
    [
        (signed, True, [1.5, -0.5, -1, -1]),
        (signed, False, [-1.5, 0.5, -1, -1]),
        (gated, True, [2, -2, -1, -2]),
        (gated, False, [-2, 1, -2, 0]),
        (convincing, False, [2, 1, -1, 0]),
    ],
)
def test_rewards_of_provers_have_their_known_values(rule, helpful, expected):
    assert rule((2, 1, -1, 0), (True, False, True, False), helpful) == expected


@given(st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=1), st.floats(-1, 1))
def test_scoring_everything_higher_changes_no_signed_reward(scored, more):
    scores, correct = zip(*scored, strict=True)
    if min(abs(score - np.mean(scores)) for score in scores) < 1e-6:
        return  # at the mean itself rounding decides
    raised = [score + more for score in scores]
    assert signed(raised, correct, True) == pytest.approx(signed(scores, correct, True), abs=1e-9)


def told(request):
    """Right when it is to help, but for the second sample of each role."""
    helpful, second = request.view.ask.side == "helpful", request.key.endswith("01")
    return "4" if helpful != second else "5"


async def proved(setting, play, verifier, **params):
    protocol = load_protocol("prover_verifier")
    seats = {"prover": told, "verifier": verifier}
    (ended,) = await play(setting(protocol, {"samples": 2, **params}, **seats))
    return ended


async def test_a_prover_is_paid_by_its_role(setting, play):
    def verifier(request):
        return "Score: 4" if request.view.ask.about[0].text == "4" else "Score: 0"

    ended = await proved(setting, play, verifier)
    # helpful: right 4, wrong 0, mean 2: +2 and -1; sneaky: wrong 0, right 4: -1 and -2
    assert ended.rewards == {"prover": pytest.approx((2 - 1 - 1 - 2) / 4), "verifier": 1.0}
    assert (ended.verdict.answer, ended.facts["settled"]) == ("4", True)


async def test_a_verifier_sees_no_role(setting, play):
    shown = []

    def verifier(request):
        shown.append((request.view.ask.side, "\n".join(m.content for m in request.messages)))
        return "0"

    ended = await proved(setting, play, verifier)
    assert ended.rewards["verifier"] == 0.5
    assert all(not side and "sneaky" not in text for side, text in shown)
    by_answer = {turn.text for turn in ended.by("prover")}
    assert len({text for _, text in shown}) == len(by_answer)  # the same text, whoever wrote it


async def test_rows_of_provers_and_verifiers_train_controls_only(setting, play):
    ended = await proved(setting, play, lambda r: r.view.ask.about[0].text)
    found = solutions(ended)

    def prompt_of(turn):
        return (Message(role="user", content=turn.key.rpartition(":")[2].partition("-")[0]),)

    with pytest.raises(BadInput, match="control"):
        persuasion_rows(ended, "prover", prompt_of, found)
    ranked = persuasion_rows(ended, "prover", prompt_of, found, control=True)
    assert [row.prompt[0].content for row in ranked] == ["helpful", "sneaky"]
    assert ranked[0].replies == ("4", "5") and ranked[0].rewards == (-1.0, -0.5)
    pairs = persuasion_rows(ended, "verifier", prompt_of, found, control=True)
    assert [(row.kind, row.replies, row.source) for row in pairs] == [
        ("pref", ("4", "5"), "oracle")
    ] * 2


@pytest.mark.parametrize("text", ["11", "-10.5", "high", "Score: ", "Score: 3\nScore: x"])
def test_what_is_no_score_is_unreadable(text):
    with pytest.raises(Unreadable):
        parse_score(text)


# Tree refinement


def judged(share):
    """A critic that accepts so many of five votes, by the answer's text."""

    def critic(request):
        vote = int(request.key.rpartition("-")[2])
        return "ok" if vote < share[request.view.ask.about[0].text] else "1"

    return critic


async def searched(setting, play, learner, refiner, share, **params):
    seats = {"learner": learner, "refiner": refiner, "critic": judged(share)}
    (ended,) = await play(setting(load_protocol("tree_refine"), params, calls=4096, **seats))
    assert ended.status == "done", ended.error
    return ended


async def test_a_failing_answer_is_refined_until_most_votes_accept(setting, play):
    refiner = lambda r: {"bad": "better", "better": "4"}[r.view.ask.about[0].text]  # noqa: E731
    ended = await searched(setting, play, ["4", "bad"], refiner, {"4": 5, "bad": 0, "better": 2})
    assert (ended.verdict.value, ended.verdict.answer) == ("refined", "4")
    assert len(ended.by("refiner")) == 3 + 2 * 3  # one root, then a beam of two
    assert ended.rewards == {
        "learner": 0.6,
        "refiner": 1.0,
        "critic": pytest.approx(ended.rewards["critic"]),
    }


async def test_the_beam_keeps_the_best_and_the_depth_ends_the_search(setting, play):
    texts = ["a", "b", "c"]

    def refiner(request):
        return texts[int(request.key.rpartition("-")[2])]

    share = {"bad": 0, "a": 0, "b": 2, "c": 1}
    ended = await searched(setting, play, ["bad"], refiner, share, depth=2)
    last = [turn for turn in ended.by("refiner") if turn.key[:4] > ended.by("refiner")[0].key[:4]]
    parents = {m for turn in last for m in turn.messages}
    assert (ended.verdict.value, ended.verdict.answer) == ("unrefined", "b")
    assert ended.verdict.confidence == 0.4 and len(last) == 6 and len(parents) > 1


@pytest.mark.parametrize(("share", "value"), [({"4": 5}, "sound"), ({"4": 1}, "undecided")])
async def test_nothing_is_refined_where_nothing_fails(share, value, setting, play, forbidden):
    ended = await searched(
        setting, play, ["4"], forbidden, share, votes=2 if "u" in value[:1] else 5
    )
    assert ended.verdict.value == value and ended.rewards["refiner"] is None


async def test_rows_hold_the_refinement_against_the_original(setting, play):
    refiner = lambda r: "4"  # noqa: E731
    ended = await searched(setting, play, ["bad"], refiner, {"4": 4, "bad": 1})
    rule = load_protocol("tree_refine").rule
    assert rule is not None

    def prompt_of(turn):
        return (Message(role="user", content=f"prompt of {turn.seat}"),)

    (pair,) = rule(ended, "learner", prompt_of)
    assert (pair.kind, pair.replies, pair.source) == ("pref", ("4", "bad"), "ai")
    assert pair.prompt[0].content == "prompt of learner"
    (taught,) = rule(ended, "refiner", prompt_of)
    assert (taught.kind, taught.replies) == ("sft", ("4",))
    critiques = list(rule(ended, "critic", prompt_of))
    assert [row.replies for row in critiques] == [("1",)] * 5 + [("ok",)] * 3
    known = {f"{ended.ref}/{turn.key}" for turn in ended.turns}
    assert all(set(row.turns) <= known for row in (pair, taught, *critiques))


async def test_an_unrefined_search_teaches_no_pair(setting, play):
    ended = await searched(setting, play, ["bad"], lambda r: "bad", {"bad": 0}, depth=1)
    rule = load_protocol("tree_refine").rule
    assert rule is not None and list(rule(ended, "learner", lambda turn: ())) == []
