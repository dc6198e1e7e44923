"""Elo is found again from games drawn by it, bends from bent lines, and n* from known answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.learners.oversight_scaling import (
    best_steps,
    fit_elo,
    fit_shape,
    nested_success,
    win_probability,
)
from superalign.store import BadInput


def line(slope, intercept=0.0):
    return lambda general: slope * general + intercept


@pytest.mark.parametrize(
    ("guard", "houdini", "gap", "steps", "success"),
    [
        (line(1), line(1, -1000), 2000, 11, 0.9061),
        (line(1), line(1, -200), 500, 2, 0.1836),
        (line(2), line(1), 400, 2, 0.1201),
        (line(1), line(1), 400, 1, 0.0909),
    ],
)
def test_the_best_number_of_steps_is_the_known_one(guard, houdini, gap, steps, success):
    best, chance = best_steps(guard, houdini, gap)
    assert best == steps
    assert chance == pytest.approx(success, abs=5e-5)


def test_one_step_is_one_game():
    assert nested_success(line(1), line(1, -1000), 2000, 1) == pytest.approx(0.0032, abs=5e-5)
    assert nested_success(line(1), line(1), 400, 1) == win_probability(0, 400)


@given(st.floats(0, 3), st.floats(0, 3), st.floats(-500, 500), st.floats(1, 2000))
def test_no_number_of_steps_beats_the_best_one(guard, houdini, lead, gap):
    best, chance = best_steps(line(guard), line(houdini, lead), gap, 30)
    chances = [nested_success(line(guard), line(houdini, lead), gap, n) for n in range(1, 31)]
    assert chance == max(chances) == chances[best - 1]


GUARDS, HOUDINIS = np.array([-150.0, 0, 150]), np.array([-250.0, 0, 150, 100])


def games(each, seed=0):
    """Games between these Guards and Houdinis, and who won."""
    chance = 1 / (1 + 10 ** (np.subtract.outer(-GUARDS, -HOUDINIS) / 400))
    played = np.full(chance.shape, each)
    return np.random.default_rng(seed).binomial(played, chance), played


def test_elo_is_found_again_and_shifted_to_the_general_mean():
    rated = fit_elo(*games(20_000), general_mean=1200)
    found, true = np.concatenate(rated[:2]), np.concatenate([GUARDS, HOUDINIS])
    assert found.mean() == pytest.approx(1200)
    assert found - 1200 == pytest.approx(true - true.mean(), abs=6)


def test_a_fit_explains_the_wins_of_everybody():
    """At the maximum everybody is expected to win as often as they did."""
    wins, played = games(200, seed=3)
    rated = fit_elo(wins, played, resamples=2)
    chance = 1 / (1 + 10 ** (np.subtract.outer(-rated.guards, -rated.houdinis) / 400))
    assert (played * chance).sum(1) == pytest.approx(wins.sum(1), abs=1e-3)
    assert (played * chance).sum(0) == pytest.approx(wins.sum(0), abs=1e-3)


def test_intervals_cover_what_is_true_about_as_often_as_they_say():
    true = np.concatenate([GUARDS, HOUDINIS])
    true -= true.mean()
    covered = []
    for seed in range(40):
        rated = fit_elo(*games(100, seed), seed=seed)
        low, high = np.concatenate([rated.guards_ci, rated.houdinis_ci], axis=1)
        covered += list((low <= true) & (true <= high))
    assert 0.88 < np.mean(covered) < 0.99


def test_who_won_every_game_is_rated_all_the_same():
    rated = fit_elo([[10, 10], [3, 5]], [[10, 10], [10, 10]])
    assert np.isfinite(np.concatenate(rated[:2])).all()
    assert rated.guards[0] > rated.guards[1] + 800


@pytest.mark.parametrize(
    ("wins", "played", "says"),
    [
        ([[3]], [[2]], "between 0 and the games"),
        ([[1, 0]], [[2, 0]], "played none"),
        ([[1, 1]], [[2], [2]], "one table"),
    ],
)
def test_tables_that_cannot_be_are_refused(wins, played, says):
    with pytest.raises(BadInput, match=says):
        fit_elo(wins, played)


X = np.linspace(1000, 1400, 25)


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [
        (-math.inf, math.inf, "linear"),
        (-math.inf, 1280, "upper"),
        (1120, math.inf, "lower"),
        (1120, 1280, "both"),
    ],
)
def test_the_shape_that_made_the_data_has_the_lowest_aic(low, high, name):
    noise = np.random.default_rng(7).normal(0, 4, X.size)
    best, *others = fit_shape(X, 0.8 * np.clip(X, low, high) + 50 + noise)
    assert best.name == name and all(best.aic <= other.aic for other in others)
    assert best.slope == pytest.approx(0.8, abs=0.06)
    assert best(1200) == pytest.approx(0.8 * 1200 + 50, abs=6)
    if math.isfinite(low):
        assert best.low == pytest.approx(low, abs=15) and best(0) == best(low - 100)
    if math.isfinite(high):
        assert best.high == pytest.approx(high, abs=15) and best(9999) == best(high + 100)


def test_doubtful_points_weigh_little():
    """Of a line with one outlier, told that it is one."""
    y, widths = 2 * X, np.ones_like(X)
    y[3], widths[3] = 9999, 1e6
    shape = next(s for s in fit_shape(X, y, widths) if s.name == "linear")
    assert shape.slope == pytest.approx(2, abs=1e-6)


def test_four_points_are_too_few():
    with pytest.raises(BadInput, match="five points"):
        fit_shape([1, 2, 3, 4], [1, 2, 3, 4])
