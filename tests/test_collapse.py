"""What generations lose, against the expectations that are theorems."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from superalign.learners import collapse
from superalign.learners.estimates import mean_interval
from superalign.store import BadInput


@pytest.mark.parametrize(("samples", "bias"), [(5, 1.0), (50, 1.0), (20, 0.8)])
def test_log_variance_falls_as_fast_as_it_must(samples, bias):
    _, variances = collapse.gaussian_generations(samples, 20, chains=2000, bias=bias)
    falls = np.diff(np.log(variances), axis=1).mean(axis=1)
    found = mean_interval(falls)
    assert found and collapse.shrinking(samples, bias) < 0
    assert found.low - 1e-3 <= collapse.shrinking(samples, bias) <= found.high + 1e-3


def test_variance_itself_does_not_fall_in_expectation_while_every_chain_dies():
    _, variances = collapse.gaussian_generations(10, 100, chains=4000)
    assert variances[:, 5].mean() == pytest.approx(1, abs=0.1)
    assert np.median(variances[:, 100]) < 0.01


def test_wasserstein_distances_are_the_known_ones():
    normal = np.sqrt(2) * np.array([0.5, -0.5])
    assert collapse.wasserstein2(normal, normal + 3) == pytest.approx(3)
    assert collapse.wasserstein2(np.array([0.0, 2.0]), np.array([1.0])) == pytest.approx(1)
    assert collapse.wasserstein2(np.array([0.0, 0, 3]), np.array([0.0, 3])) == pytest.approx(
        math.sqrt(9 / 6)
    )
    even = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    assert collapse.wasserstein2(even, 0.5 * even + 1) == pytest.approx(math.sqrt(1.25), abs=1e-3)


@given(
    st.lists(st.floats(-9, 9), min_size=1, max_size=8),
    st.lists(st.floats(-9, 9), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_wasserstein_is_symmetric_and_knows_no_sample_size(a, b, times):
    first, second = np.array(a), np.array(b)
    found = collapse.wasserstein2(first, second)
    assert collapse.wasserstein2(second, first) == pytest.approx(found)
    assert collapse.wasserstein2(np.tile(first, times), second) == pytest.approx(found, abs=1e-6)


def test_a_lost_tail_has_no_mass():
    originals = np.arange(1000.0)
    assert collapse.tail_mass(originals, originals) == pytest.approx(0.05)
    assert collapse.tail_mass(originals / 2 + 250, originals) == 0


def test_precision_and_recall_tell_quality_from_diversity():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(0, 1, (150, 2)), rng.normal(20, 1, (150, 2))])
    one_mode, far = rng.normal(0, 0.5, (150, 2)), rng.normal(90, 1, (150, 2))
    precision, recall = collapse.precision_recall(real, one_mode)
    assert precision > 0.95 and recall < 0.5
    assert collapse.precision_recall(real, far) == (0, 0)
    assert collapse.precision_recall(real, real) == (1, 1)
    swapped = collapse.precision_recall(one_mode, real)
    assert swapped == (recall, precision)
    with pytest.raises(BadInput, match="points"):
        collapse.precision_recall(real[:3], real)


def test_diversity_drifts_away_at_the_known_rate_when_nothing_is_kept():
    p, samples, count = np.full(20, 1 / 20), 25, 12
    runs = [
        collapse.simpson(collapse.generations("full", p, samples, count, s)) for s in range(400)
    ]
    wanted = 0.95 * (1 - 1 / samples) ** np.arange(count + 1)
    assert np.mean(runs, axis=0) == pytest.approx(wanted, abs=0.02)


def test_cycles_that_keep_data_slow_the_loss_and_fresh_data_stops_it():
    p, left = np.full(30, 1 / 30), {}
    for cycle in ("full", "balanced", "incremental", "expanding", "fresh"):
        runs = [collapse.generations(cycle, p, 20, 60, seed)[-1] for seed in range(20)]
        left[cycle] = float(collapse.simpson(np.array(runs)).mean())
    assert left["full"] < 0.3 < min(left[c] for c in left if c != "full")
    assert left["fresh"] > left["incremental"] > left["full"]


def test_what_each_cycle_learns_from():
    history = [np.full(4, i) for i in range(3)]
    rng = np.random.default_rng(0)

    def mix(cycle):
        return Counter(collapse.training_data(cycle, history, rng).tolist())

    assert mix("full") == {2: 4}
    assert mix("balanced") == {0: 2, 1: 1, 2: 1}
    assert mix("incremental") == mix("fresh") == {0: 4, 2: 4}
    assert mix("expanding") == {0: 4, 1: 4, 2: 4}
