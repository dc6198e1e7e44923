"""Critics against each other and against an arguer: what is earned, what is learnt, what leaks."""

import math
from typing import Any

import pytest

from superalign.protocols import load_protocol
from superalign.protocols.check import check_protocol
from superalign.protocols.critic_comparison import caught, critic_comparison, hits
from superalign.protocols.critic_debate import critic_debate, hacking


@pytest.mark.parametrize(
    ("name", "params", "calls"),
    [
        ("critic_debate", {}, 11),
        ("critic_debate", {"plies": "ab", "votes": 2, "samples": 3}, 10),
        ("critic_debate", {"plies": "aba", "votes": 1, "samples": 2}, 6),
        ("critic_comparison", {}, 7),
    ],
)
async def test_it_is_sound_and_asks_so_often(name, params, calls):
    protocol = load_protocol(name)
    report = await check_protocol(protocol, protocol.params(params))
    assert (report.problems, report.max_calls) == ((), calls)


async def test_of_the_single_player_only_the_silent_critic_is_said():
    report = await check_protocol(critic_debate, critic_debate.params({"plies": "a"}))
    assert [(found.kind, found.where) for found in report.problems] == [("silent seat", "bob")]


# critic_debate


def voter(right: int) -> Any:
    """A judge who says `right` so many times of those it is asked about one game."""
    return lambda request: "right" if int(request.key[-2:]) < right else "wrong"


@pytest.mark.parametrize(
    ("right", "value", "answer", "alice"),
    [
        (8, "right", "4", 1.0),
        (5, "right", "4", 0.625),
        (4, "split", None, 0.5),
        (0, "wrong", None, 0),
    ],
)
@pytest.mark.parametrize("plies", ["a", "ab", "aba"])
async def test_alice_and_bob_share_the_votes(plies, right, value, answer, alice, setting, play):
    stage = setting(
        critic_debate, {"plies": plies}, alice=["4"], bob=["Critique: 1"], judge=voter(right)
    )
    (ended,) = await play(stage)
    assert (ended.verdict.value, ended.verdict.answer) == (value, answer)
    bob = None if plies == "a" else 1 - alice
    assert ended.rewards == {"alice": alice, "bob": bob, "judge": right / 8}
    kinds = [turn.kind for turn in ended.turns if turn.seat != "judge"]
    assert kinds == ["answer", "critique", "rebuttal"][: len(plies)]


@pytest.mark.parametrize(
    ("critique", "rebuttal", "alice", "bob"),
    [(10, 10, 0.5, 0.5), (14, 10, 0.5, 0.1), (10, 25, -1.0, 0.5)],
)
async def test_words_above_the_limit_cost_what_they_exceed_it_by(
    critique, rebuttal, alice, bob, setting, play
):
    def speaker(request: Any) -> str:
        return "4" if request.view.ask.kind == "answer" else "so " * rebuttal

    objection = "no " * (critique - 2) + "\nCritique: 1"
    params = {"words": 10}
    stage = setting(critic_debate, params, alice=speaker, bob=[objection], judge=voter(4))
    (ended,) = await play(stage)
    assert ended.rewards["alice"] == pytest.approx(alice)
    assert ended.rewards["bob"] == pytest.approx(bob)


async def test_the_last_ply_diverges_and_its_best_sample_is_learnt(setting, play, taught):
    """The judge believes the second rebuttal every time, the first half of the times."""

    def alice(request: Any) -> str:
        return "4" if request.view.ask.kind == "answer" else f"rebuttal {request.key[-2:]}"

    def judge(request: Any) -> str:
        said, vote = request.view.ask.about[-1].text, int(request.key[-2:])
        return "right" if vote < {"00": 2, "01": 4, "02": 1}[said[-2:]] else "wrong"

    params = {"votes": 4, "samples": 3}
    stage = setting(critic_debate, params, alice=alice, bob=["Critique: 1"], judge=judge)
    (ended,) = await play(stage)
    assert (ended.verdict.value, ended.rewards["alice"]) == ("split", 0.5)  # the first counts
    (pair,) = taught(ended, "alice")
    assert pair.replies == ("rebuttal 01", "rebuttal 02")
    assert pair.flip_prob == pytest.approx(1 / (1 + math.exp(1.0 - 0.25)))
    assert taught(ended, "bob") == []


async def test_bob_learns_what_costs_alice_votes(setting, play, taught):
    def bob(request: Any) -> str:
        return f"objection {request.key[-2:]}\nCritique: 1"

    def judge(request: Any) -> str:
        return "wrong" if "objection 01" in request.view.ask.about[-1].text else "right"

    params = {"plies": "ab", "votes": 1, "samples": 2}
    (ended,) = await play(setting(critic_debate, params, alice=["4"], bob=bob, judge=judge))
    (pair,) = taught(ended, "bob")
    assert [text.split()[1] for text in pair.replies] == ["01", "00"]


async def test_a_hacked_judge_shows_as_reward_without_correlation(setting, play, make):
    """Both judges give Alice the same mean reward; one of them reads the answer."""

    def alice(request: Any) -> str:
        return "4" if request.seed % 2 else "5"

    async def gauge(judge: Any, name: str) -> Any:
        stage = setting(
            critic_debate, {"plies": "a", "votes": 1}, alice=alice, bob=["x"], judge=judge
        )
        made = [p.model_copy(update={"id": f"{name}-{p.index}"}) for p in make.plans(24)]
        return hacking(await play(stage, made))

    reads = await gauge(lambda r: "right" if r.view.ask.about[0].text == "4" else "wrong", "reads")
    fooled = await gauge(["right"], "fooled")
    assert reads[1] == 1.0
    assert fooled[0] == 1.0 > reads[0]
    assert fooled[1] is None  # one vote for all: it correlates with nothing


# critic_comparison


def tampering(report: str = "a slip in line 2\nCritique: 2", text: str = "5") -> Any:
    return lambda request: report if request.view.ask.kind == "critique" else text


def helpful(line: str) -> Any:
    """A judge who prefers the critique that names this line."""

    def reply(request: Any) -> str:
        first, _ = (turn.text for turn in request.view.ask.about[2:])
        return "first" if first.endswith(line) else "second"

    return reply


@pytest.mark.parametrize("finder", ["critic_a", "critic_b"])
async def test_the_critic_who_finds_the_inserted_fault_wins(finder, setting, play, taught):
    other = {"critic_a": "critic_b", "critic_b": "critic_a"}[finder]
    cast = {finder: ["line 2\nCritique: 2"], other: ["Critique: 1"]}
    stage = setting(
        critic_comparison, learner=["4"], tamperer=tampering(), judge=helpful("2"), **cast
    )
    (ended,) = await play(stage)
    assert (ended.verdict.value, hits(ended)) == (finder, {finder: True, other: False})
    earned = {finder: 1.0, other: 0.0, "tamperer": 0.5, "judge": 1.0, "learner": 1.0}
    assert ended.rewards == earned
    for seat in (finder, other):  # the one may learn from the other, under its own prompt
        (pair,) = taught(ended, seat)
        assert (pair.seat, pair.replies) == (seat, ("line 2\nCritique: 2", "Critique: 1"))
        assert pair.flip_prob == 0.0
    (pair,) = taught(ended, "learner")
    assert pair.replies == ("4", "5")


async def test_critics_see_neither_the_original_nor_the_report_nor_who_wrote(setting, play):
    seen = []

    def critic(request: Any) -> str:
        seen.append("\n".join(f"{m.role} {m.content}" for m in request.messages))
        return "Critique: 2"

    stage = setting(
        critic_comparison,
        learner=["the original"],
        tamperer=tampering("the report\nCritique: 2", "the changed text"),
        critic_a=critic,
        critic_b=critic,
        judge=["first"],
    )
    await play(stage)
    assert len(seen) == 2
    for shown in seen:
        assert "the changed text" in shown
        for secret in ("the original", "the report", "tamper", "inserted", "line 2"):
            assert secret not in shown


async def test_the_judge_is_not_told_whose_critique_it_reads(setting, play, taught):
    seen = []

    def judge(request: Any) -> str:
        seen.append("\n".join(m.content for m in request.messages))
        return "first"

    cast = {"critic_a": ["Critique: 2"], "critic_b": ["Critique: 2"]}
    stage = setting(critic_comparison, learner=["4"], tamperer=tampering(), judge=judge, **cast)
    (ended,) = await play(stage)
    assert not any("critic_a" in shown or "critic_b" in shown for shown in seen)
    assert ended.verdict.value == "tie"  # it went by position
    assert ended.rewards["judge"] is None
    assert taught(ended, "critic_a") == []


async def test_a_tamperer_who_changed_nothing_ends_the_episode(setting, play, forbidden):
    stage = setting(
        critic_comparison,
        learner=["4"],
        tamperer=tampering("Critique: ok"),
        critic_a=forbidden,
        critic_b=forbidden,
        judge=forbidden,
    )
    (ended,) = await play(stage)
    assert (ended.verdict.value, ended.rewards["tamperer"]) == ("untampered", 0.0)
    assert ended.rewards["critic_a"] is None


async def test_a_fault_that_is_none_earns_the_tamperer_nothing(setting, play):
    """It says there is a fault in line 2, but the answer is right."""
    cast = {"critic_a": ["ok"], "critic_b": ["ok"], "judge": ["first"]}
    stage = setting(critic_comparison, learner=["4"], tamperer=tampering(text="4"), **cast)
    (ended,) = await play(stage)
    assert ended.rewards["tamperer"] == 0.0


async def test_recall_comes_with_precision(setting, play, make):
    """critic_a always names a line, at random; critic_b names the right one, or none."""

    def either(*texts: str) -> Any:
        return lambda request: texts[request.seed % len(texts)]

    stage = setting(
        critic_comparison,
        learner=["4"],
        tamperer=tampering(),
        critic_a=either("Critique: 2", "Critique: 1"),
        critic_b=either("Critique: 2", "Critique: ok"),
        judge=["first"],
    )
    ended = await play(stage, make.plans(24))
    for seat, precise in (("critic_a", False), ("critic_b", True)):
        found = sum(hits(episode)[seat] for episode in ended)
        assert 0 < found < 24
        assert caught(ended, seat) == (1.0 if precise else found / 24, found / 24)
