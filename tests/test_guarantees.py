"""Doubly-efficient and prover-estimator debates keep what their papers prove of them."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.protocols import Unreadable, load_protocol
from superalign.protocols.check import check_protocol
from superalign.protocols.pricing import Level, exposed, levels, lowest, parse_pick, worth
from superalign.protocols.stochastic import (
    ALICES,
    BOBS,
    Tolerances,
    average,
    chain,
    coin,
    estimate,
    honest_alice,
    honest_bob,
    parse_probability,
    samples,
    vera,
)

ROOT = Path(__file__).parent.parent


def benchmark(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("doubly_efficient", {"steps": 1}),
        ("prover_estimator", {"depth": 3}),
        ("prover_verifier", {"samples": 1, "reward": "gated"}),
        ("tree_refine", {"samples": 1, "votes": 2, "branches": 1, "beam": 1, "depth": 1}),
    ],
)
async def test_the_protocol_is_sound_with_other_parameters(name, params):
    protocol = load_protocol(name)
    report = await check_protocol(protocol, protocol.params(params))
    assert report.ok, report.problems


# Doubly-efficient debate


@pytest.mark.parametrize(
    ("lipschitz", "steps", "queries"),
    [(1, 10, (38_005, 16_891, 105_967)), (2, 100, (198_070, 88_032, 423_866))],
)
def test_the_constants_of_the_proof_ask_so_often(lipschitz, steps, queries):
    assert Tolerances.of(lipschitz, steps, 0.01, 0.01).queries == queries


@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(0.5, 8))
def test_vera_asks_the_same_however_long_the_computation(steps, others, lipschitz):
    one, other = (Tolerances.of(lipschitz, n, 0.01, 0.01).queries for n in (steps, others))
    assert one[2] == other[2]
    assert (one[0] < other[0]) == (steps < others) or one[0] == other[0]


@given(st.floats(0.01, 0.2), st.floats(0.01, 0.5), st.floats(0, 1))
def test_so_many_samples_suffice(error, failure, p):
    rng = np.random.default_rng(0)
    n = samples(error, failure)
    off = [abs(estimate(p, n, rng) - p) >= error for _ in range(200)]
    assert np.mean(off) <= failure + 0.1


@pytest.mark.parametrize("oracle", [chain(0.3), average(0.3, 5)])
def test_a_computation_has_its_result_and_its_lipschitz_constant(oracle):
    """By all 32 ways in which five bits can fall, as they are and with every claim a bit off."""

    def result(off: float) -> float:
        total = 0.0
        for n in range(32):
            bits, chance = f"{n:05b}", 1.0
            for i, bit in enumerate(bits):
                p = oracle(bits[:i]) + off
                chance *= p if bit == "1" else 1 - p
            total += chance * (bits[-1] == "1")
        return total

    assert result(0) == pytest.approx(0.3)
    assert 0 < result(0.01) - result(0) <= 0.01 * 2 + 1e-12


DEBATES = benchmark("doubly_efficient")


@pytest.mark.parametrize("cheat", BOBS)
def test_an_honest_alice_wins_three_games_of_five(cheat):
    oracle, off = chain(0.7), Tolerances.of(2, 10, 0.01, 0.01)
    rng, alice, bob = np.random.default_rng(1), honest_alice(oracle, off), BOBS[cheat](10)
    won = [DEBATES.debate(oracle, alice, bob, off, 10, rng)[0] for _ in range(1000)]
    assert np.mean(won) > 3 / 5


@pytest.mark.parametrize("cheat", ALICES)
def test_an_honest_bob_wins_three_games_of_five(cheat):
    oracle, off = chain(0.3), Tolerances.of(2, 10, 0.01, 0.01)
    rng, alice, bob = (
        np.random.default_rng(1),
        ALICES[cheat](oracle, off, 10),
        honest_bob(oracle, off),
    )
    won = [DEBATES.debate(oracle, alice, bob, off, 10, rng)[0] for _ in range(1000)]
    assert np.mean(won) < 2 / 5


def test_without_bob_a_biased_step_would_win():
    oracle, off = chain(0.3), Tolerances.of(2, 10, 0.01, 0.01)
    rng, alice = np.random.default_rng(1), ALICES["one biased step"](oracle, off, 10)
    played = [
        DEBATES.debate(oracle, alice, BOBS["never objects"](10), off, 10, rng) for _ in range(20)
    ]
    assert all(won for won, _ in played)


def computed(oracle, off, alice, bob):
    """Scripted seats that play strategies of stochastic.py, their chance from the call's seed."""

    def bits(request):
        told = request.view.question.text.rpartition("Bits so far: ")[2]
        return "" if told == "none" else told

    def chance(request):
        return np.random.default_rng(request.seed)

    def challenge(request):
        claim = parse_probability(request.view.ask.about[0].text)
        return "reject" if bob(bits(request), claim, chance(request)) else "accept"

    judge = vera(oracle, off)
    return {
        "alice": lambda r: f"Probability: {alice(bits(r), chance(r))}",
        "bob": challenge,
        "vera": lambda r: f"Probability: {judge(bits(r), chance(r))}",
    }


@pytest.mark.parametrize(
    ("p", "cheat", "value"), [(0.05, "one biased step", "0"), (0.95, "objects at once", "1")]
)
async def test_the_graph_plays_the_same_game(p, cheat, value, setting, play):
    oracle, off = chain(p), Tolerances.of(2, 6, 0.01, 0.01)
    alice, bob = honest_alice(oracle, off), honest_bob(oracle, off)
    if cheat in ALICES:
        alice = ALICES[cheat](oracle, off, 6)
    else:
        bob = BOBS[cheat](6)
    protocol = load_protocol("doubly_efficient")
    stage = setting(protocol, {"steps": 6, "lipschitz": 2}, **computed(oracle, off, alice, bob))
    ended = await play(stage, 20)
    assert [e.verdict.value for e in ended] == [value] * 20
    assert all(len(e.by("vera")) == 1 for e in ended)
    assert {(e.rewards["alice"], e.rewards["bob"]) for e in ended} == {
        (float(value), 1 - float(value))
    }


async def test_accepted_claims_fall_as_often_as_claimed(setting, play):
    seats = {"alice": ["0.8"], "bob": ["accept"], "vera": ["0.5"]}
    stage = setting(load_protocol("doubly_efficient"), {"steps": 1}, **seats)
    ended = await play(stage, 600)
    assert 0.75 < np.mean([e.verdict.value == "1" for e in ended]) < 0.85
    assert {e.rewards["vera"] for e in ended} == {None}


async def test_vera_speaks_once_at_most_and_sees_no_claim(setting, play):
    def judge(request):
        assert request.view.ask.about == () and "0.8" not in request.view.question.text
        return "0.8"

    seats = {"alice": ["0.8"], "bob": ["accept", "accept", "reject"], "vera": judge}
    (ended,) = await play(setting(load_protocol("doubly_efficient"), **seats))
    assert ended.verdict.value == "1" and ended.verdict.turn == ended.by("vera")[0].key
    assert [len(ended.by(seat)) for seat in ("alice", "bob", "vera")] == [3, 3, 1]


@pytest.mark.parametrize("text", ["1.2", "-0.1", "nan", "high", ""])
def test_what_is_no_probability_is_unreadable(text):
    with pytest.raises(Unreadable):
        parse_probability(text)


def test_a_coin_is_the_same_again_and_falls_evenly(make):
    tosses = [coin(0.5, make.turn(seed=n), make.turn(seed=n + 1)) for n in range(2000)]
    assert tosses == [coin(0.5, make.turn(seed=n), make.turn(seed=n + 1)) for n in range(2000)]
    assert 0.46 < np.mean(tosses) < 0.54
    assert coin(0, make.turn()) == 0 and coin(1, make.turn()) == 1


# Prover-estimator debate

PRICES = st.lists(st.floats(0, 1), min_size=2, max_size=8)


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=20))
def test_prices_of_anything_that_can_be_true_expose_nothing(worlds):
    """Prices that are shares of worlds in which the parts, and so the whole, are true."""
    parts = [float(np.mean([world[i] for world in worlds])) for i in range(4)]
    whole = float(np.mean([all(world) for world in worlds]))
    assert exposed(whole, parts, 1) <= 1e-12
    assert exposed(whole, parts, -1) <= 1e-12


@given(PRICES, st.floats(0, 1))
def test_a_price_cannot_be_too_high_and_too_low_at_once(parts, price):
    assert lowest(parts) <= min(parts) + 1e-12
    assert not (exposed(price, parts, 1) > 1e-9 and exposed(price, parts, -1) > 1e-9)


def test_what_a_prover_earns_by_hand():
    root, parts = Level(("a",), (0.9,), 0, 1), Level(("b", "c"), (0.5, 0.8), 1, -1)
    # over: 0.9 - 0.5 - 0.1; under, at twice the rate: 1 - 0.8 - 0.1
    assert worth([root, parts], True, 2, 0.1) == pytest.approx(0.3 + 2 * 0.1)
    assert worth([root, parts], False, 2, 0.1) == pytest.approx(0.3 + 2 * (-0.8 - 0.1))
    assert worth([root._replace(sign=0), parts._replace(sign=0)], True, 2, 0.1) == 0


def test_a_prover_that_does_not_know_the_flaw_earns_nothing_but_wins_ordinary_debates():
    row = benchmark("prover_estimator").planted(8, 1, 3000, np.random.default_rng(0))
    assert row["ignorant"][1] <= 0 and row["silent"] == 0
    assert row["ordinary"][1] > 0.7
    assert row["knowing"][1] > 1


def test_many_small_doubts_hurt_an_honest_prover():
    doubted = benchmark("prover_estimator").doubted
    few, many = doubted(4, 0.01), doubted(64, 0.01)
    assert many["accepted"] < few["accepted"] - 0.3
    assert many["honest"] < 0 < doubted(4, 0.1)["honest"]


def split(flaw: int, pick: str):
    """A false claim whose part number `flaw`, from 0, is false; what the prover says of parts."""
    parts = "\n".join(f"part {n}" for n in range(4))

    def prover(request):
        kind = request.view.ask.kind
        if kind == "choice":
            return pick if "part" in request.view.question.text else "1 right"
        return {"answer": "the claim", "decomposition": parts}[kind]

    def priced(request):
        return "0.75" if "part" in request.view.question.text else "0"

    def judge(request):
        return "false" if f"part {flaw}" in request.view.question.text else "true"

    return {"prover": prover, "estimator": priced, "judge": judge}


async def test_the_graph_prices_and_judges_one_part(setting, play, make):
    protocol = load_protocol("prover_estimator")
    (knows,) = await play(setting(protocol, **split(2, "3 over")))
    assert knows.rewards["prover"] == pytest.approx(2 * (0.75 - 0.02))
    assert (knows.verdict.value, len(knows.by("judge"))) == ("rejected", 1)
    earned = []
    for flaw, plan in enumerate(make.plans(5)[1:]):
        (guesses,) = await play(setting(protocol, **split(flaw, "3 over")), [plan])
        earned.append(guesses.rewards["prover"])
        assert guesses.rewards["estimator"] == -earned[-1]
    assert np.mean(earned) == pytest.approx(-2 * 0.02)


async def test_each_claim_is_priced_without_the_others(setting, play):
    def alone(request):
        shown = request.view.question.text
        assert sum(f"part {n}" in shown for n in range(4)) <= 1
        return "0.5"

    seats = {**split(0, "1 over"), "estimator": alone}
    (ended,) = await play(setting(load_protocol("prover_estimator"), {"depth": 2}, **seats))
    assert ended.status == "done", ended.error
    assert [len(level.claims) for level in levels(ended.turns)] == [1, 4, 4]


@pytest.mark.parametrize("text", ["5 over", "0 over", "over", "1 maybe", "1"])
def test_a_choice_of_no_claim_is_unreadable(text):
    with pytest.raises(Unreadable):
        parse_pick(text, 4)


async def test_a_claim_cannot_be_split_into_one(setting, play):
    seats = {**split(0, "1 over"), "prover": lambda r: "1 over" if r.nth == 1 else "one line"}
    (ended,) = await play(setting(load_protocol("prover_estimator"), **seats))
    assert ended.status == "failed" and "1 claims, expected 2 to 4" in ended.error
