"""Thresholds hold what they promise, and win rates are found again, whatever the judge's errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from superalign.learners.selective import (
    LEAST,
    NONE,
    Verdicts,
    calibrate,
    find_threshold,
    simulated_annotators,
    upper_bound,
)
from superalign.learners.win_rate import Audit, bwrs, point_estimate
from superalign.store import BadInput

# Thresholds.


@pytest.mark.parametrize(
    ("wrong", "n", "bound"),
    [
        (0, 30, 0.073881),
        (5, 100, 0.090771),
        (10, 100, 0.149883),
        (15, 200, 0.104776),
        (30, 300, 0.125921),
    ],
)
def test_the_bound_has_its_known_values(wrong, n, bound):
    assert upper_bound(wrong, n, 0.1) == pytest.approx(bound, abs=1e-6)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_at_the_bound_so_few_errors_have_probability_delta(counts):
    wrong, n = counts
    bound = upper_bound(wrong, n, 0.05)
    assert binom.cdf(wrong, n, bound) == pytest.approx(0.05 if wrong < n else 1, abs=1e-9)


def steps(*groups):
    """Confidences and errors of groups (confidence, items, wrong)."""
    confidence = np.concatenate([np.full(n, c) for c, n, _ in groups])
    wrong = np.concatenate([np.arange(n) < k for _, n, k in groups])
    return confidence, wrong


def test_the_threshold_is_the_last_before_the_first_failure():
    confidence, wrong = steps((0.9, 100, 5), (0.8, 100, 10), (0.7, 20, 15), (0.6, 5000, 0))
    found = find_threshold(confidence, wrong, 0.15, 0.1)
    assert found is not None
    assert (found.confidence, found.accepted) == (0.8, 200)
    assert found.error == pytest.approx(0.104776, abs=1e-6)  # and not 0.6, which is past a failure


def test_a_neighbour_that_fails_is_never_stepped_over():
    # all right but for 40 in the middle, a grid step apart: a longer step would miss them
    confidence = np.linspace(1, 0, 4000)
    wrong = np.zeros(4000, bool)
    wrong[100:140] = True
    found = find_threshold(confidence, wrong, 0.1, 0.1)
    assert found is not None
    assert 100 <= found.accepted < 140
    assert upper_bound(found.accepted - 100 + 1, found.accepted + 1, 0.1) > 0.1


def test_no_threshold_holds_when_the_highest_fails():
    confidence, wrong = steps((0.99, 40, 20), (0.5, 1000, 0))
    assert find_threshold(confidence, wrong, 0.1, 0.1) is None


def test_too_few_items_give_no_threshold():
    confidence = np.linspace(0.5, 1, LEAST - 1)
    assert find_threshold(confidence, np.zeros(LEAST - 1, bool), 0.5, 0.1) is None
    assert find_threshold([], [], 0.5, 0.1) is None


def test_alpha_below_the_floor_needs_more_than_the_least_items():
    confidence, wrong = steps((1.0, LEAST, 0))
    assert find_threshold(confidence, wrong, 0.073, 0.1) is None
    assert find_threshold(confidence, wrong, 0.074, 0.1) is not None


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=LEAST, max_size=200),
    st.randoms(use_true_random=False),
)
def test_only_the_order_of_confidences_counts(items, rng):
    confidence = np.array([c for c, _ in items], float)
    wrong = np.array([w for _, w in items])
    found = find_threshold(confidence, wrong, 0.3, 0.1)
    mixed = list(range(len(items)))
    rng.shuffle(mixed)
    assert find_threshold(confidence[mixed], wrong[mixed], 0.3, 0.1) == found
    stretched = find_threshold(confidence**3 + 1, wrong, 0.3, 0.1)
    assert (found is None) == (stretched is None)
    if found and stretched:
        assert stretched[1:] == found[1:]
        accepted = confidence >= found.confidence
        assert found.accepted == accepted.sum() >= LEAST
        assert found.error <= 0.3
        assert wrong[accepted].mean() < found.error


def judge(rng, items, power, truth=None):
    """A judge of two labels whose confidence is calibrated: uniform, pulled up by `power`."""
    truth = rng.integers(0, 2, items) if truth is None else truth
    confidence = 0.5 + 0.5 * rng.random(items) ** (1 / power)
    right = rng.random(items) < confidence
    return truth, Verdicts(np.where(right, truth, 1 - truth), confidence)


def error_above(threshold, power):
    """How often the judge above errs among verdicts of at least this confidence."""
    grid = np.linspace(0, 1, 20_001)
    grid = grid[0.5 + 0.5 * grid ** (1 / power) >= threshold]
    return float((0.5 - 0.5 * grid ** (1 / power)).mean())


@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_the_true_error_exceeds_alpha_no_more_often_than_delta(delta):
    rng, tries, violations = np.random.default_rng(1), 600, 0
    for _ in range(tries):
        truth, said = judge(rng, 300, 2)
        found = find_threshold(said.confidence_I, said.label_I != truth, 0.1, delta)
        violations += found is not None and error_above(found.confidence, 2) > 0.1
    assert violations > 0  # the statement is not idle
    assert binom.sf(violations - 1, tries, delta) > 0.001


def test_a_cascade_decides_with_its_first_sure_judge_and_keeps_its_promise():
    rng, tries, violations = np.random.default_rng(2), 200, 0
    for _ in range(tries):
        truth, cheap = judge(rng, 500, 1)
        _, dear = judge(rng, 500, 4, truth)
        cascade = calibrate([cheap, dear], truth, 0.15, 0.1)
        new_truth, new_cheap = judge(rng, 4000, 1)
        _, new_dear = judge(rng, 4000, 4, new_truth)
        said = cascade.decide([new_cheap, new_dear])
        kept = said.decided_I
        wrong = (said.label_I != new_truth)[kept]
        violations += bool(kept.any()) and wrong.mean() > 0.16  # 0.15 and what chance adds
        low = cascade.thresholds[0]
        if low:
            assert ((said.judge_I == 0) == (new_cheap.confidence_I >= low.confidence)).all()
            assert (said.error_I[said.judge_I == 0] == low.error).all()
        assert (said.label_I[~kept] == NONE).all() and np.isnan(said.error_I[~kept]).all()
    assert violations <= 0.1 * tries


def test_a_judge_without_items_is_never_trusted():
    truth = np.zeros(200, int)
    sure = Verdicts(truth, np.ones(200))
    cascade = calibrate([sure, sure], truth, 0.1, 0.1)
    assert cascade.thresholds[0] is not None
    assert cascade.thresholds[1] is None
    assert cascade.decide([sure, sure]).judge_I.tolist() == [0] * 200


def test_judges_share_delta():
    truth = np.zeros(100, int)
    wrong = np.arange(100) < 5
    said = Verdicts(wrong.astype(int), np.ones(100))
    alpha = 0.0951  # U(5, 100) is 0.0908 at delta 0.1 and more at 0.05
    assert calibrate([said], truth, alpha, 0.1).thresholds[0] is not None
    assert calibrate([said, said], truth, alpha, 0.1).thresholds == (None, None)


def test_a_judge_that_cannot_be_trusted_leaves_all_to_the_next():
    truth = np.arange(400) % 2
    liar, honest = Verdicts(1 - truth, np.ones(400)), Verdicts(truth, np.ones(400))
    cascade = calibrate([liar, honest], truth, 0.1, 0.1)
    assert cascade.thresholds[0] is None
    assert set(cascade.decide([liar, honest]).judge_I) == {1}
    assert not calibrate([liar], truth, 0.1, 0.1).decide([liar]).decided_I.any()


def test_simulated_annotators_are_averaged_and_the_unread_left_out():
    nan = [np.nan, np.nan]
    p = [[[0.9, 0.1], nan, nan], [[0.6, 0.4], [0.2, 0.8], nan], [[0.3, 0.7], nan, nan]]
    said = simulated_annotators(p)
    assert said.label_I.tolist() == [0, 1, NONE]
    assert said.confidence_I == pytest.approx([0.6, 0.8, np.nan], nan_ok=True)


def test_silence_is_never_accepted():
    truth = np.zeros(100, int)
    half = np.arange(100) % 2 == 0
    said = Verdicts(np.where(half, 0, NONE), np.where(half, 0.9, np.nan))
    cascade = calibrate([said], truth, 0.1, 0.1)
    assert cascade.decide([said]).decided_I.tolist() == half.tolist()


def test_bad_thresholds_and_shapes_are_refused():
    with pytest.raises(BadInput, match="alpha: 0; give a probability"):
        find_threshold([1.0], [False], 0, 0.1)
    with pytest.raises(BadInput, match=r"confidence \(2,\), wrong \(1,\)"):
        find_threshold([1.0, 0.5], [False], 0.1, 0.1)
    with pytest.raises(BadInput, match="each summing to 1"):
        simulated_annotators([[[0.5, 0.6]]])
    with pytest.raises(BadInput, match="all of one length"):
        calibrate([], np.zeros(3), 0.1, 0.1)


# Win rates.


def test_the_point_estimate_is_the_known_one():
    assert point_estimate(0.62, q0=0.8, q1=0.7) == pytest.approx(0.64)


@given(st.floats(0, 1), st.floats(0.55, 1), st.floats(0.55, 1))
def test_the_point_estimate_undoes_the_judges_errors(p, q0, q1):
    k = p * q0 + (1 - p) * (1 - q1)
    assert point_estimate(k, q0, q1) == pytest.approx(p, abs=1e-9)


def test_much_data_gives_the_point_estimate():
    found = bwrs(620_000, 1_000_000, Audit(10**6, 800_000, 10**6, 700_000))
    assert found.mean == pytest.approx(0.64, abs=0.001)
    assert found.mode == pytest.approx(0.64, abs=0.005)
    assert found.low < 0.64 < found.high
    assert found.high - found.low < 0.01
    assert found.possible == 1


def test_turned_round_it_is_the_other_win_rate():
    found = bwrs(300, 500, Audit(60, 50, 40, 30))
    turned = bwrs(200, 500, Audit(40, 30, 60, 50), seed=1)
    assert turned.mean == pytest.approx(1 - found.mean, abs=0.005)
    assert turned.low == pytest.approx(1 - found.high, abs=0.02)


@pytest.mark.parametrize("p", [0.3, 0.64])
def test_intervals_cover_the_truth_and_beat_the_naive_rate(p):
    rng, q0, q1, tries = np.random.default_rng(3), 0.8, 0.7, 300
    covered, off, naive = 0, [], []
    for seed in range(tries):
        a = rng.binomial(100, p)
        audit = Audit(a, rng.binomial(a, q0), 100 - a, rng.binomial(100 - a, q1))
        said_a = rng.binomial(1000, p * q0 + (1 - p) * (1 - q1))
        found = bwrs(said_a, 1000, audit, draws=2000, seed=seed)
        covered += found.low <= p <= found.high
        off.append(abs(found.mean - p))
        naive.append(abs(said_a / 1000 - p))
    assert 0.92 <= covered / tries <= 0.995
    if p == 0.3:  # where the judge's own rate is 0.45; at 0.64 it happens to be 0.62
        assert np.mean(off) < np.mean(naive) / 2


def test_a_coin_tells_no_win_rate():
    with pytest.raises(BadInput, match="no better than a coin"):
        point_estimate(0.5, 0.5, 0.5)
    with pytest.raises(BadInput, match="draws give a win rate"):
        bwrs(500, 1000, Audit(500, 100, 500, 100))
    with pytest.raises(BadInput, match="said_a: 3 of 2"):
        bwrs(3, 2, Audit(1, 1, 1, 1))
