"""Refiners (self-refine, constitutional revision, dcr): what is kept, and what is learnt."""

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.protocols import load_protocol
from superalign.protocols.check import check_protocol
from superalign.protocols.constitutional import PRINCIPLES, constitutional, drawn
from superalign.protocols.dcr import dcr
from superalign.protocols.detection import measured
from superalign.protocols.readings import doubt, sentences
from superalign.protocols.self_refine import best, self_refine
from superalign.store import Turn

TWO = {"revisions": 6, "principles": ["Be kind.", "Be brief."]}


@pytest.mark.parametrize(
    ("name", "params", "calls"),
    [
        ("self_refine", {}, 18),
        ("self_refine", {"refinements": 1}, 6),
        ("constitutional", {}, 17),
        ("constitutional", TWO, 17),
        ("dcr", {}, 5),
        ("dcr", {"rounds": 3}, 11),
    ],
)
async def test_it_is_sound_and_asks_so_often(name, params, calls):
    protocol = load_protocol(name)
    report = await check_protocol(protocol, protocol.params(params))
    assert (report.problems, report.max_calls) == ((), calls)


# self_refine


def refiner(*texts: str) -> Any:
    """A learner that writes these answers in turn."""
    return lambda request: texts[request.nth]


def prefers(*order: str) -> Any:
    """A judge of two answers by a ranking."""

    def reply(request: Any) -> str:
        first, second = (order.index(turn.text) for turn in request.view.ask.about)
        return "first" if first < second else "second"

    return reply


@pytest.mark.parametrize(
    ("texts", "kept"), [(("5", "4", "6"), "4"), (("4", "5", "6"), "4"), (("6", "5", "4"), "4")]
)
async def test_the_best_answer_is_kept_not_the_last(texts, kept, setting, play, taught):
    stage = setting(
        self_refine,
        {"refinements": 2},
        learner=refiner(*texts),
        critic=["1"],
        judge=prefers("4", "5", "6"),
    )
    (ended,) = await play(stage)
    assert ended.verdict.answer == best(ended.turns).text == kept
    assert ended.rewards == {"learner": 1.0, "critic": pytest.approx(2 / 3), "judge": 1.0}
    pairs = [row.replies for row in taught(ended, "learner")]
    assert pairs == ([] if texts[0] == "4" else [("4", texts[0])])


async def test_a_judge_who_goes_by_position_changes_nothing(setting, play, taught):
    stage = setting(
        self_refine, learner=refiner(*"56789"), critic=["1"], judge=["Comparison: second"]
    )
    (ended,) = await play(stage)
    assert ended.verdict.answer == "5"
    assert taught(ended, "learner") == []


async def test_it_ends_when_the_critic_is_content(setting, play, forbidden):
    stage = setting(self_refine, learner=["5"], critic=["all good\nCritique: ok"], judge=forbidden)
    (ended,) = await play(stage)
    assert (len(ended.turns), ended.verdict.answer) == (2, "5")
    assert ended.rewards == {"learner": 0.0, "critic": 0.0, "judge": None}


async def test_the_learner_sees_all_answers_and_feedback_and_no_comparison(setting, play):
    seen = []

    def learner(request: Any) -> str:
        seen.append("".join(turn.kind[0] for turn in request.view.ask.about))
        return str(request.nth)

    await play(setting(self_refine, learner=learner, critic=["1"], judge=["first"]))
    assert seen == ["", "ac", "acac", "acacac", "acacacac"]


def test_doubt_is_what_the_judges_models_told(make):
    sure = make.turn(text="first", logprobs=(math.log(0.9),))
    unsure = make.turn(text="second", logprobs=(math.log(0.7),))
    reasoned = make.turn(text="because of this\nfirst", logprobs=(-30.0,))
    assert doubt([sure, unsure, reasoned]) == pytest.approx(0.2)
    assert doubt([reasoned, make.turn(text="first")]) == 0.0


# constitutional


def constitution(judge: Any) -> dict[str, Any]:
    def refine(request: Any) -> str:
        return f"revision {request.nth}"

    return {"learner": ["first"], "critic": ["a review"], "refiner": refine, "judge": judge}


def for_revision(share: float, n: int) -> Any:
    """A judge who finds the revision better under the first `share` of `n` principles."""

    def reply(request: Any) -> str:
        revised = [turn.text.startswith("revision") for turn in request.view.ask.about]
        wins = int(request.key[-4:-2]) < share * n
        return ("first", "second")[revised.index(wins)]

    return reply


@pytest.mark.parametrize(
    ("share", "stands", "pair", "flip"),
    [
        (1.0, "revision 3", ("revision 3", "first"), 0.0),
        (0.75, "revision 3", ("revision 3", "first"), 0.25),
        (0.5, "first", None, None),
        (0.25, "first", ("first", "revision 3"), 0.25),
    ],
)
async def test_a_revision_is_believed_as_far_as_the_check_goes(
    share, stands, pair, flip, setting, play, taught
):
    (ended,) = await play(setting(constitutional, **constitution(for_revision(share, 4))))
    assert (ended.verdict.answer, ended.rewards["refiner"]) == (stands, share)
    *sft, last = taught(ended, "learner")
    if pair is None:
        sft.append(last)
    else:
        assert (last.kind, last.replies, last.flip_prob) == ("pref", pair, flip)
    assert [row.replies for row in sft] == [(f"revision {i}",) for i in range(4)]
    assert len({row.prompt for row in sft}) == 1


async def test_a_judge_who_goes_by_position_prefers_neither(setting, play):
    (ended,) = await play(setting(constitutional, **constitution(["first"])))
    assert (ended.verdict.answer, ended.verdict.confidence) == ("first", 0.5)


async def test_review_and_revision_of_a_step_are_given_one_principle(setting, play):
    told: dict[str, list[str]] = {"critic": [], "refiner": []}

    def watch(request: Any) -> str:
        words = request.messages[-1].content
        told[request.view.seat] += [name for name in PRINCIPLES if name in words]
        return "text"

    cast = {**constitution(["first"]), "critic": watch, "refiner": watch}
    await play(setting(constitutional, {"revisions": 8}, **cast))
    assert told["critic"] == told["refiner"]
    assert Counter(told["critic"]) == dict.fromkeys(PRINCIPLES, 2)


@given(st.integers(0, 2**60), st.integers(1, 8))
def test_no_principle_comes_again_before_all_were_used(seed, n):
    said: dict[str, Any] = {"kind": "answer", "text": "", "policy": "p"}
    first = Turn(key="k", seat="learner", messages=(), sampling={}, seed=seed, **said)
    names = tuple(f"principle {i}" for i in range(n))
    for deck in range(2):
        assert {drawn(first, names, deck * n + k) for k in range(n)} == set(names)


# dcr


DOCUMENT = {"A is red.", "B is blue.", "C is green.", "D costs 3.50 euros."}


def detector(request: Any) -> str:
    claim = request.view.ask.about[-1].text
    return "supported" if claim in DOCUMENT else "unsupported"


def mend(request: Any) -> str:
    """Replaces what the reviews quote."""
    answer, *reviews = request.view.ask.about
    text = answer.text
    for review in reviews:
        wrong, right = review.text.split(" -> ")
        text = text.replace(wrong, right)
    return text


def reviewer(request: Any) -> str:
    claim = request.view.ask.about[-1].text
    return f"{claim} -> {claim[0]} is {'red' if claim[0] == 'A' else 'blue'}."


async def test_only_flagged_sentences_are_criticised_and_mended(setting, play, taught):
    stage = setting(
        dcr,
        learner=["A is red. B is pink. C is green."],
        detector=detector,
        critic=reviewer,
        refiner=mend,
    )
    (ended,) = await play(stage)
    assert [turn.text for turn in ended.by("critic")] == ["B is pink. -> B is blue."]
    assert ended.verdict.answer == "A is red. B is blue. C is green."
    assert measured(ended) == {"flags": [1, 0], "similarity": [8 / 9], "altered": [0.0]}
    assert ended.rewards == {
        "learner": pytest.approx(2 / 3),
        "critic": pytest.approx(1 / 3),
        "refiner": pytest.approx(1 / 3),
        "detector": None,
    }
    (pair,) = taught(ended, "learner")
    assert pair.replies == (ended.verdict.answer, ended.turns[0].text)
    assert [r.replies for r in taught(ended, "critic")] == [("B is pink. -> B is blue.",)]
    assert [r.replies for r in taught(ended, "refiner")] == [(ended.verdict.answer,)]


async def test_an_answer_without_flags_is_left_alone(setting, play, forbidden):
    stage = setting(
        dcr,
        learner=["A is red. B is blue."],
        detector=detector,
        critic=forbidden,
        refiner=forbidden,
    )
    (ended,) = await play(stage)
    assert (len(ended.turns), ended.verdict.answer) == (3, "A is red. B is blue.")


@pytest.mark.parametrize(
    ("refined", "stands", "rows"),
    [
        ("A is grey. B is pink. C is odd.", 0, 0),  # more flags: the first answer stands
        ("D costs 3.50 euros.", 1, 0),  # no flags, but another text
    ],
)
async def test_a_refinement_that_is_worse_or_another_text_teaches_nothing(
    refined, stands, rows, setting, play, taught
):
    stage = setting(
        dcr,
        learner=["A is red. B is pink. C is green."],
        detector=detector,
        critic=reviewer,
        refiner=[refined],
    )
    (ended,) = await play(stage)
    assert ended.verdict.answer == [ended.turns[0].text, refined][stands]
    for seat in ("learner", "critic", "refiner"):
        assert len(taught(ended, seat)) == rows


def test_sentences_end_at_stops_lines_and_semicolons():
    assert sentences("It is 3.50. So?\nYes;1+1=2") == ["It is 3.50.", "So?", "Yes", "1+1=2"]
