"""Best of N: which of several claims is kept, who rates it against what, and what that teaches."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from superalign.agents import Completion
from superalign.protocols import load_protocol
from superalign.protocols.arguing import DUMMY
from superalign.store import Question

TWO = Question(topic="easy", text="2+2?", choices=("4", "5"))
BOTH = ("debater_a", "debater_b")


def sure(p: float, verdict: str = "0") -> Completion:
    return Completion(verdict, logprobs=(math.log(p),), token_ids=(1,))


def rater(by_text: dict[str, float], side: dict[str, str]) -> Any:
    """A judge that gives each claim the probability noted for it, and in the end says 0."""

    def reply(request: Any) -> Completion:
        shown = [t for t in request.view.ask.about if t.text in by_text]
        if request.view.ask.visible_to is None:
            return sure(0.9)
        return sure(by_text[shown[-1].text], side[shown[-1].seat])

    return reply


def drafts(request: Any) -> str:
    return f"{request.view.seat} draft {request.key[-2:]}"


RATED = {
    **{f"debater_a draft {i:02}": p for i, p in enumerate((0.6, 0.9, 0.7, 0.9))},
    **{f"debater_b draft {i:02}": p for i, p in enumerate((0.55, 0.6, 0.8, 0.51))},
}


async def drafted(setting, play, make, order="simultaneous", rounds=1, rate=None) -> Any:
    judge = rate or rater(RATED, {"debater_a": "0", "debater_b": "1"})
    seen = make.Watched(debater_a=drafts, debater_b=drafts, judge=judge)
    params = {"best_of": 4, "order": order, "rounds": rounds}
    stage = setting(load_protocol("debate"), params, **seen.cast(*BOTH, "judge"))
    (ended,) = await play(stage, make.plans(1, question=TWO))
    return SimpleNamespace(seen=seen, ended=ended)


async def test_the_best_rated_claim_is_kept_and_the_others_are_heard_by_nobody(setting, play, make):
    found = await drafted(setting, play, make, rounds=2)
    final = [r for r in found.seen.of("judge", "verdict") if r.view.ask.visible_to is None]
    kept = [("debater_a", "debater_a draft 01"), ("debater_b", "debater_b draft 02")]
    assert [found.seen.heard(request) for request in final] == [kept * 2]
    for seat in BOTH:
        assert [found.seen.heard(r) for r in found.seen.asked[seat]] == [[]] * 4 + [kept] * 4
    assert len(found.ended.by("debater_a", "claim")) == 8  # all stay in the transcript


async def test_a_claim_is_rated_against_a_reply_that_only_names_its_answer(setting, play, make):
    found = await drafted(setting, play, make)
    rated = [r for r in found.seen.of("judge", "verdict") if r.view.ask.visible_to == ()]
    dummies = {"debater_a": DUMMY.format("4"), "debater_b": DUMMY.format("5")}
    own = [[("debater_a", text), ("debater_b", dummies["debater_b"])] for text in list(RATED)[:4]]
    other = [[("debater_a", dummies["debater_a"]), ("debater_b", text)] for text in list(RATED)[4:]]
    assert [found.seen.heard(request) for request in rated] == own + other
    assert {r.view.ask.instruction for r in rated} == {
        r.view.ask.instruction for r in found.seen.of("judge", "verdict")
    }


async def test_who_speaks_second_is_rated_against_what_was_really_said(setting, play, make):
    found = await drafted(setting, play, make, order="sequential")
    rated = [
        found.seen.heard(r)
        for r in found.seen.of("judge", "verdict")
        if r.view.ask.visible_to == ()
    ]
    assert {pair[0] for pair in rated[4:]} == {("debater_a", "debater_a draft 01")}
    assert [len(pair) for pair in rated] == [2] * 8


async def test_rows_set_the_best_claim_over_the_worst_one_of_the_same_place(
    setting, play, taught, make
):
    found = await drafted(setting, play, make)
    (row,) = taught(found.ended, "debater_b")
    assert (row.kind, row.seat) == ("pref", "debater_b")
    assert row.replies == ("debater_b draft 02", "debater_b draft 03")
    # odds 4 and 51/49: flipped with 0.2 * 0.51 / (0.2 * 0.51 + 0.8 * 0.49)
    assert row.flip_prob == pytest.approx(0.102 / 0.494)
    assert row.flip_prob == pytest.approx(1 / (1 + math.exp(math.log(4) - math.log(0.51 / 0.49))))
    assert row.prompt == tuple(found.seen.asked["debater_b"][0].messages)
    by_ref = {f"{found.ended.ref}/{turn.key}": turn for turn in found.ended.turns}
    assert [by_ref[ref].text for ref in row.turns] == [*row.replies, "1", "1"]
    assert taught(found.ended, "judge") == []
    (first,) = taught(found.ended, "debater_a")
    assert first.replies == ("debater_a draft 01", "debater_a draft 00")


async def test_equal_ratings_keep_the_first_and_teach_nothing(setting, play, taught, make):
    found = await drafted(setting, play, make, rate=lambda request: "0")
    final = found.seen.of("judge", "verdict")[-1]
    assert found.seen.heard(final) == [(seat, f"{seat} draft 00") for seat in BOTH]
    assert taught(found.ended, "debater_a") == []


async def test_one_claim_a_turn_teaches_nothing(setting, play, taught, make):
    stage = setting(load_protocol("debate"), **make.Watched(judge="0").cast(*BOTH, "judge"))
    (ended,) = await play(stage, make.plans(1, question=TWO))
    assert [taught(ended, seat) for seat in BOTH] == [[], []]


async def test_a_claim_that_was_cut_off_teaches_nothing(setting, play, taught, make):
    def cut(request: Any) -> Completion:
        text = drafts(request)
        return Completion(text, finish="length" if text.endswith("03") else "stop")

    judge = rater(RATED, {"debater_a": "0", "debater_b": "1"})
    seen = make.Watched(debater_a=drafts, debater_b=cut, judge=judge)
    stage = setting(
        load_protocol("debate"), {"best_of": 4, "rounds": 1}, **seen.cast(*BOTH, "judge")
    )
    (ended,) = await play(stage, make.plans(1, question=TWO))
    (row,) = taught(ended, "debater_b")
    assert row.replies == ("debater_b draft 02", "debater_b draft 00")


@pytest.mark.parametrize("name", ["consultancy", "open_consultancy", "open_debate"])
async def test_the_other_arms_keep_the_best_and_teach_it_too(name, setting, play, taught, make):
    found = load_protocol(name)
    leader = found.seats[0]

    def speak(request: Any) -> str:
        return "1" if request.view.ask.kind == "choice" else drafts(request)

    def rate(request: Any) -> Completion:
        last = next(t for t in request.view.ask.about if t.kind == "claim" and "draft" in t.text)
        return sure((0.9, 0.6, 0.8)[int(last.text[-2:])], "0")

    params = {"best_of": 3, "rounds": 1, **({"side": 1} if name == "consultancy" else {})}
    cast = {seat: rate if seat == "judge" else speak for seat in found.seats}
    stage = setting(found, params, **cast)
    (ended,) = await play(stage, make.plans(1, question=TWO))
    (row,) = taught(ended, leader)
    assert row.replies == (f"{leader} draft 01", f"{leader} draft 00")
    assert taught(ended, "judge") == []
