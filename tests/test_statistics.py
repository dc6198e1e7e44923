"""What the scorecard computes with: known answers of its statistics, worked out by hand."""

import math
import random
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superalign.learners.estimates import mean_interval
from superalign.scenarios.items import FLOOR
from superalign.scenarios.matched import Votes, fewer
from superalign.scenarios.statistics import (
    Confusion,
    bradley_terry,
    calibration,
    calibration_error,
    holm,
    matthews,
    sign_flip_p,
)


def test_bradley_terry_known_answers():
    """Three of four won: odds of 3, which are 400 log10 3 = 190.8485 points."""
    found = bradley_terry({("a", "b"): 3, ("b", "a"): 1})
    assert found and found["a"].value - found["b"].value == pytest.approx(400 * math.log10(3))
    assert 1 / (1 + 10 ** ((found["b"].value - found["a"].value) / 400)) == pytest.approx(0.75)
    assert found["a"].value + found["b"].value == pytest.approx(0)
    # a beats b with odds of 2 and b beats c with odds of 2: a and c differ by odds of 4
    chain = bradley_terry({("a", "b"): 2, ("b", "a"): 1, ("b", "c"): 2, ("c", "b"): 1})
    assert chain and chain["a"].value - chain["c"].value == pytest.approx(400 * math.log10(4))


def test_bradley_terry_intervals_by_the_information():
    """Two players: the variance of the log odds is 1/wins + 1/losses; each is half of it away."""
    found = bradley_terry({("a", "b"): 30, ("b", "a"): 10})
    half = 1.959963984540054 * math.sqrt(1 / 30 + 1 / 10) / 2 * 400 / math.log(10)
    assert found and found["a"].high - found["a"].value == pytest.approx(half)


@pytest.mark.parametrize(
    "wins",
    [{}, {("a", "b"): 4}, {("a", "b"): 1, ("b", "a"): 1, ("c", "d"): 1, ("d", "c"): 1}],
    ids=["nothing", "never lost", "never met"],
)
def test_no_ratings_where_none_are_finite(wins):
    assert bradley_terry(wins) is None


def test_holm_known_answer():
    """By hand: 0.005*4, 0.01*3, 0.03*2, then no less than that."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_nothing_and_bonferroni_and_keeps_the_order(ps):
    found = holm(ps)
    for p, corrected in zip(ps, found, strict=True):
        assert p <= corrected <= min(1.0, len(ps) * p) or corrected == pytest.approx(p)
    ranked = [found[i] for i in sorted(range(len(ps)), key=lambda i: ps[i])]
    assert ranked == sorted(ranked)
    assert sorted(found) == sorted(holm(ps[::-1])), "the order of the tests does not matter"


def test_permutation_test_known_answers():
    """Five equal differences: of 32 choices of signs only two lie as far out."""
    assert sign_flip_p([1.0] * 5) == 2 / 32
    assert sign_flip_p([1.0, 2.0, -3.0]) == 1.0
    assert sign_flip_p([3.0, 1.0]) == 0.5
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([0.1] * 3 + [0.0] * 40) == 2 / 8, "equal items tell nothing"
    assert sign_flip_p([]) is None


def test_permutation_test_by_draws_agrees_with_all_signs():
    """Seventeen equal differences are drawn, not tried; n = 20 with 15 ahead is a sign test."""
    exact = 2 * sum(math.comb(20, k) for k in range(15, 21)) / 2**20
    drawn = sign_flip_p([1.0] * 15 + [-1.0] * 5)
    assert drawn == pytest.approx(exact, abs=4 * math.sqrt(exact / 10_000))
    assert sign_flip_p([1.0] * 40) == 1 / 10_001


@settings(max_examples=5)
@given(st.integers(0, 2**32))
def test_permutation_test_keeps_its_size(seed):
    """Where nothing differs, p <= 0.05 in no more than 5% of trials (and not in far fewer)."""
    rng = random.Random(seed)
    trials = [sign_flip_p([rng.gauss(0, 1) for _ in range(10)]) for _ in range(600)]
    below = sum(p <= 0.05 for p in trials if p is not None)
    assert 8 <= below <= 60, "binomial of 600 and 0.05: outside with probability below 1e-4"


def test_bootstrap_interval_covers_what_a_normal_one_does():
    rng = random.Random(1)
    values = [rng.gauss(2, 1) for _ in range(400)]
    found = mean_interval(values)
    spread = math.sqrt(sum((v - sum(values) / 400) ** 2 for v in values)) / 400
    assert found and found.value == pytest.approx(sum(values) / 400)
    assert (found.high - found.low) / (2 * 1.96 * spread) == pytest.approx(1, abs=0.05)
    assert mean_interval([]) is None


def test_matthews_of_two_classes_is_the_usual_one():
    cases = {(True, True): 6, (True, False): 2, (False, True): 1, (False, False): 3}
    usual = (6 * 3 - 2 * 1) / math.sqrt(8 * 7 * 5 * 4)
    assert matthews(cases) == pytest.approx(usual) == pytest.approx(Confusion(6, 2, 1, 3).mcc)
    assert matthews({(0, 0): 3, (1, 1): 2, (2, 2): 9}) == 1
    assert matthews({(0, 0): 3, (0, 1): 3}) == 0
    assert matthews({}) is None


def test_calibration_known_answer():
    """Two bins: 0.9 twice with one right, 0.6 once and right: (2 * 0.4 + 1 * 0.4) / 3."""
    bins = calibration([(0.9, True), (0.6, True), (0.9, False)])
    assert [(b.n, b.came_true) for b in bins] == [(1, 1.0), (2, 0.5)]
    assert calibration_error(bins) == pytest.approx(0.4)
    many = calibration([(i / 1000, True) for i in range(1000)])
    assert [b.n for b in many] == [100] * 10
    assert calibration_error([]) is None


# Votes of equal cost.


def test_fewer_votes_known_answers():
    """Two right of three, one is drawn: right with 2/3. Of all three: right."""
    votes = Votes(right=2, wrong=(1,), choices=2)
    found = fewer(votes, 1)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["log_score"] == pytest.approx(math.log(FLOOR) / 3)
    assert fewer(votes, 3)["accuracy"] == 1
    assert fewer(votes, 3)["p_true"] == pytest.approx(2 / 3)
    assert fewer(votes, 3)["asd"] == pytest.approx(math.log(2))
    # two of three: both right with 1/3; one of each with 2/3, and then the first drawn wins
    assert fewer(votes, 2)["accuracy"] == pytest.approx(1 / 3 + 2 / 3 / 2)


@settings(max_examples=30)
@given(st.lists(st.sampled_from("TTABC"), min_size=1, max_size=6), st.data())
def test_fewer_votes_are_the_mean_over_all_draws(votes, data):
    m = data.draw(st.integers(1, len(votes)))
    right = 0
    draws = list(permutations(votes, m))
    for drawn in draws:
        most = max(drawn.count(v) for v in drawn)
        right += next(v for v in drawn if drawn.count(v) == most) == "T"
    wrong = tuple(n for n in (votes.count(v) for v in "ABC") if n)
    counted = Votes(votes.count("T"), wrong, choices=4)
    assert fewer(counted, m)["accuracy"] == pytest.approx(right / len(draws))
