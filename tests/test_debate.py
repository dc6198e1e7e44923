"""Debate and its controls: who hears what, who argues for what, what is kept, who earns what."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.agents.quotes import quotes
from superalign.protocols import Verdict, load_protocol
from superalign.protocols.arguing import belief
from superalign.protocols.check import check_protocol
from superalign.protocols.replay import replay
from superalign.protocols.setting import Plan
from superalign.scenarios.nyu_debate import STORY as NOTE
from superalign.scenarios.nyu_debate import NyuDebate
from superalign.store import Question, Task

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SUPERALIGN_DATA") or ROOT.parent / "shared" / "data") / "nyu_debate"
TWO = Question(topic="easy", text="2+2?", choices=("4", "5"))
STORY = "The mill stood by the river. Nobody had been inside for years."
BOTH = ("debater_a", "debater_b")
FAMILY: list[tuple[str, dict[str, Any], int]] = [
    ("direct", {}, 1),
    ("blind", {}, 1),
    ("oracle_told", {}, 2),
    ("propaganda", {"side": 1, "quotes": True}, 2),
    ("consultancy", {"rounds": 2, "side": 1, "interactive": True}, 4),
    ("consultancy", {"rounds": 2, "quotes": True, "best_of": 3}, 13),
    ("open_consultancy", {"rounds": 3, "interactive": True, "quotes": True}, 7),
    ("open_consultancy", {"rounds": 1, "best_of": 2}, 6),
    ("debate", {}, 7),
    ("debate", {"rounds": 2, "order": "sequential", "interactive": True, "quotes": True}, 6),
    ("debate", {"rounds": 1, "best_of": 4}, 17),
    ("debate", {"rounds": 2, "order": "sequential", "best_of": 2, "interactive": True}, 18),
    ("open_debate", {"rounds": 2, "interactive": True}, 7),
    ("open_debate", {"rounds": 1, "order": "sequential", "best_of": 2, "quotes": True}, 10),
    ("vote", {"samples": 7}, 7),
]


def tasks(n: int = 1, question: Any = TWO, **private: str) -> list[Plan]:
    task = Task(question=question, private=private)
    return [Plan(run="run", scenario="s", index=i, task=task, seed=i) for i in range(n)]


def counted(request: Any) -> str:
    return f"{request.view.seat} {request.view.ask.kind} {request.nth}"


def judging(verdict: str = "0") -> Any:
    return lambda request: verdict if request.view.ask.kind == "verdict" else "Why is that so?"


@pytest.fixture
def arms(make):
    """`arms(seat=reply…)`: every seat watched; those not named say which of their calls it is."""

    def build(**replies: Any) -> Any:
        speakers = dict.fromkeys((*BOTH, "consultant"), counted)
        return make.Watched(**{**speakers, "judge": judging(), **replies})

    return build


# All of them.


@pytest.mark.parametrize(("name", "params", "calls"), FAMILY)
async def test_every_arm_passes_the_check_and_makes_so_many_calls(name, params, calls):
    found = load_protocol(name)
    report = await check_protocol(found, found.params(params))
    assert (report.problems, report.max_calls) == ((), calls)


@pytest.mark.parametrize(("name", "params", "calls"), FAMILY)
async def test_one_at_a_time_or_64_is_the_same_and_replays(
    name, params, calls, setting, play, make
):
    found = load_protocol(name)

    def say(request: Any) -> str:
        kind = request.view.ask.kind
        if kind in ("verdict", "choice"):
            return random.Random(request.seed).choice("01")
        return f"{kind} {request.seed % 997} <quote>the river</quote>"

    cast = {seat: make.jittered(say) for seat in found.seats}
    wanted = tasks(8, **{seat: STORY for seat in found.seats if seat != "judge"})
    stage = setting(found, params, **cast)
    alone = await play(stage, wanted, concurrency=1)
    again = [plan.model_copy(update={"run": "run2"}) for plan in wanted]
    many = await play(stage, again, concurrency=64)
    assert [e.transcript_hash for e in alone] == [e.transcript_hash for e in many]
    assert [e.status for e in alone] == ["done"] * 8
    assert len({e.transcript_hash for e in alone}) > 1
    assert [await replay(stage, episode) for episode in alone] == [None] * 8


@pytest.mark.parametrize("name", [name for name, params, _ in FAMILY if not params])
@pytest.mark.parametrize(("verdict", "right"), [("0", 1.0), ("1", 0.0)])
async def test_whoever_decides_is_paid_for_the_truth(name, verdict, right, setting, play, make):
    found = load_protocol(name)
    cast = make.Watched(judge=verdict, learner=verdict, teller="0").cast(*found.seats)
    (ended,) = await play(setting(found, **cast), tasks())
    decider = found.seats[-1]
    assert (ended.verdict.answer, ended.facts["settled"]) == (TWO.choices[int(verdict)], right == 1)
    assert ended.rewards[decider] == right


# Who hears what.


async def test_the_judge_sees_no_private_note_and_the_debaters_only_their_own(setting, play, arms):
    seen = arms()
    stage = setting(load_protocol("debate"), {"interactive": True}, **seen.cast(*BOTH, "judge"))
    await play(stage, tasks(debater_a="note of a", debater_b="note of b"))
    for seat, own, other in (("debater_a", "of a", "of b"), ("debater_b", "of b", "of a")):
        for request in seen.asked[seat]:
            text = str(request.messages)
            assert f"note {own}" in text and f"note {other}" not in text
    assert "note of" not in str([r.messages for r in seen.asked["judge"]])


async def test_simultaneous_claims_do_not_hear_each_other(setting, play, arms):
    seen = arms()
    await play(
        setting(load_protocol("debate"), {"rounds": 2}, **seen.cast(*BOTH, "judge")), tasks()
    )
    first = [("debater_a", "debater_a claim 0"), ("debater_b", "debater_b claim 0")]
    for seat in BOTH:
        assert [seen.heard(request) for request in seen.asked[seat]] == [[], first]
    second = [("debater_a", "debater_a claim 1"), ("debater_b", "debater_b claim 1")]
    assert seen.heard(seen.asked["judge"][0]) == first + second


async def test_in_a_sequential_round_the_second_answers_the_first(setting, play, arms):
    seen = arms()
    params = {"rounds": 2, "order": "sequential"}
    await play(setting(load_protocol("debate"), params, **seen.cast(*BOTH, "judge")), tasks())
    spoken = [(seat, f"{seat} claim {n}") for n in range(2) for seat in BOTH]
    assert [seen.heard(r) for r in seen.asked["debater_a"]] == [[], spoken[:2]]
    assert [seen.heard(r) for r in seen.asked["debater_b"]] == [spoken[:1], spoken[:3]]


@pytest.mark.parametrize("name", ["debate", "consultancy", "open_debate", "open_consultancy"])
async def test_an_interactive_judge_asks_between_rounds_and_all_hear_it(name, setting, play, arms):
    found, seen = load_protocol(name), arms()
    cast = seen.cast(*found.seats)
    for seat in found.seats[:-1]:
        cast[seat] = lambda r, s=cast[seat]: "1" if r.view.ask.kind == "choice" else s(r)
    await play(setting(found, {"rounds": 3, "interactive": True}, **cast), tasks())
    assert len(seen.of("judge", "feedback")) == 2
    question = ("judge", "Why is that so?")
    for seat in found.seats[:-1]:
        asked = [seen.heard(request).count(question) for request in seen.of(seat, "claim")]
        assert asked == [0, 1, 2]
    assert seen.heard(seen.of("judge", "verdict")[0]).count(question) == 2


async def test_propaganda_is_all_that_the_judge_hears(setting, play, arms):
    seen = arms()
    found = load_protocol("propaganda")
    await play(setting(found, {"side": 1}, **seen.cast("consultant", "judge")), tasks())
    (request,) = seen.asked["judge"]
    assert seen.heard(request) == [("consultant", "consultant claim 0")]
    assert "consultant argues for (1)." in request.view.ask.instruction


async def test_the_blind_judge_is_shown_the_question_and_its_choices_alone(setting, play, arms):
    seen = arms()
    await play(setting(load_protocol("blind"), **seen.cast("judge")), tasks(consultant="a note"))
    (request,) = seen.asked["judge"]
    assert (seen.heard(request), request.view.private) == ([], None)
    assert "a note" not in str(request.messages)


# Who argues for what.


async def test_debaters_argue_for_the_two_choices_and_swapping_these_swaps_sides(
    setting, play, arms
):
    swapped = TWO.model_copy(update={"choices": ("5", "4")})
    sides = []
    for question in (TWO, swapped):
        seen = arms()
        stage = setting(load_protocol("debate"), **seen.cast(*BOTH, "judge"))
        (ended,) = await play(stage, tasks(question=question))
        sides.append({seat: {r.view.ask.side for r in seen.asked[seat]} for seat in BOTH})
        right = 0 if question == TWO else 1
        assert ended.rewards == {
            "debater_a": 1.0,
            "debater_b": 0.0,
            "judge": 1.0 - right,
        }
    assert sides == [
        {"debater_a": {"4"}, "debater_b": {"5"}},
        {"debater_a": {"5"}, "debater_b": {"4"}},
    ]


@pytest.mark.parametrize(("verdict", "won"), [("0", 0.0), ("1", 1.0)])
async def test_a_consultant_argues_for_its_side_and_is_paid_when_it_wins(
    verdict, won, setting, play, arms
):
    seen = arms(judge=judging(verdict))
    stage = setting(load_protocol("consultancy"), {"side": 1}, **seen.cast("consultant", "judge"))
    (ended,) = await play(stage, tasks())
    assert {r.view.ask.side for r in seen.asked["consultant"]} == {"5"}
    assert ended.rewards == {"consultant": won, "judge": 1.0 - won}


@pytest.mark.parametrize("choice", ["0", "1"])
async def test_in_open_arms_the_protagonist_argues_for_what_it_chose(choice, setting, play, arms):
    def pick(request: Any) -> str:
        return choice if request.view.ask.kind == "choice" else counted(request)

    own, other = TWO.choices[int(choice)], TWO.choices[1 - int(choice)]
    seen = arms(debater_a=pick, consultant=pick)
    stage = setting(load_protocol("open_debate"), **seen.cast(*BOTH, "judge"))
    (ended,) = await play(stage, tasks())
    assert {r.view.ask.side for r in seen.of("debater_a", "claim")} == {own}
    assert {r.view.ask.side for r in seen.of("debater_b", "claim")} == {other}
    won = float(choice == "0")
    assert ended.rewards == {"debater_a": won, "debater_b": 1 - won, "judge": 1.0}
    words = seen.asked["judge"][0].view.ask.instruction
    assert f"debater_a argues for ({choice}). debater_b argues for ({1 - int(choice)})." in words
    assert "choice" not in {t.kind for r in seen.asked["judge"] for t in r.view.ask.about}
    stage = setting(load_protocol("open_consultancy"), **seen.cast("consultant", "judge"))
    (ended,) = await play(stage, tasks())
    assert {r.view.ask.side for r in seen.of("consultant", "claim")} == {own}
    assert ended.rewards == {"consultant": won, "judge": 1.0}


@pytest.mark.parametrize(
    ("name", "params", "choices", "says"),
    [
        ("debate", {}, ("a", "b", "c"), "exactly two"),
        ("debate", {}, (), "exactly two"),
        ("open_debate", {}, ("a",), "exactly two"),
        ("consultancy", {"side": 2}, ("a", "b"), "side 2: question has 2 choices"),
        ("propaganda", {}, (), "side 0: question has 0 choices"),
        ("open_consultancy", {}, (), "at least two are needed"),
        ("blind", {}, ("a",), "at least two are needed"),
        ("oracle_told", {}, (), "at least two are needed"),
    ],
)
async def test_a_question_that_does_not_fit_fails_before_anybody_is_asked(
    name, params, choices, says, setting, play, forbidden
):
    found = load_protocol(name)
    stage = setting(found, params, **dict.fromkeys(found.seats, forbidden))
    (ended,) = await play(stage, tasks(question=Question(topic="easy", choices=choices)))
    assert ended.status == "failed" and says in ended.error
    assert ended.turns == ()


@pytest.mark.parametrize("choice", ["2", "the first", ""])
async def test_a_choice_that_cannot_be_read_is_none(choice, setting, play, arms):
    seen = arms(consultant=choice)
    stage = setting(load_protocol("open_consultancy"), **seen.cast("consultant", "judge"))
    (ended,) = await play(stage, tasks())
    assert (ended.status, ended.verdict) == ("failed", None)
    assert "expected a number from 0 to 1" in ended.error


# Quotes.


async def test_the_others_are_shown_which_quotes_stand_in_the_speaker_s_own_note(
    setting, play, arms
):
    said = "<quote>by the river</quote> no, <v_quote>nobody lived there</v_quote>"
    seen = arms(debater_a=said, debater_b=said)
    stage = setting(load_protocol("debate"), {"quotes": True}, **seen.cast(*BOTH, "judge"))
    (ended,) = await play(stage, tasks(debater_a=STORY, debater_b="Something else."))
    shown = dict(seen.heard(seen.asked["judge"][0]))
    assert quotes(shown["debater_a"]) == [("by the river", True), ("nobody lived there", False)]
    assert [real for _, real in quotes(shown["debater_b"])] == [False, False]
    assert dict(seen.heard(seen.asked["debater_b"][1])) == shown
    assert ended.by("debater_b")[0].text == said  # the transcript has what was said
    assert STORY not in str([r.messages for r in seen.asked["judge"]])


async def test_without_quotes_words_pass_as_they_are(setting, play, arms):
    seen = arms(consultant="<quote>by the river</quote>")
    stage = setting(load_protocol("consultancy"), **seen.cast("consultant", "judge"))
    await play(stage, tasks(consultant=STORY))
    assert seen.heard(seen.asked["judge"][0])[0][1] == "<quote>by the river</quote>"
    assert "v_quote" not in seen.asked["judge"][0].view.ask.instruction


async def test_real_stories_verify_their_own_words_and_no_others(setting, play, arms):
    if not (DATA / "debates.jsonl.gz").is_file():
        pytest.skip("needs nyu_debate/debates.jsonl.gz; set $SUPERALIGN_DATA")
    world = NyuDebate(DATA)
    both = [task for task in world.tasks(60, seed=0) if len(task.private) == 2][:12]

    def quote(request: Any) -> str:
        words = request.view.private.partition(NOTE)[2].split()[200:212]
        real = request.view.seat == "debater_a"
        return f"<quote>{' '.join(words if real else reversed(words))}</quote>"

    seen = arms(debater_a=quote, debater_b=quote)
    params = {"quotes": True, "rounds": 1}
    stage = setting(load_protocol("debate"), params, world=world, **seen.cast(*BOTH, "judge"))
    plans = [Plan(run="run", scenario="s", index=i, task=t, seed=i) for i, t in enumerate(both)]
    assert {e.status for e in await play(stage, plans)} == {"done"}
    shown = [dict(seen.heard(request)) for request in seen.asked["judge"]]
    assert len(shown) == 12
    for claims in shown:
        assert [real for _, real in quotes(claims["debater_a"])] == [True]
        assert [real for _, real in quotes(claims["debater_b"])] == [False]


# What the judge believes.


@given(p=st.floats(0, 1), choices=st.integers(2, 9), data=st.data())
def test_what_a_verdict_gives_to_all_choices_adds_up_to_one(p, choices, data):
    value = str(data.draw(st.integers(0, choices - 1)))
    verdict = Verdict(value=value, seat="judge", confidence=p)
    given = [belief(verdict, side, choices) for side in range(choices)]
    assert sum(given) == pytest.approx(1)
    assert given[int(value)] == p
