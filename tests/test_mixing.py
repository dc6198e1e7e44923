"""Labels of people and of judges together are worth more than either, and never count twice."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.learners import Judgement
from superalign.learners.mixing import escalate, prediction_powered, route, weights
from superalign.learners.selective import Threshold
from superalign.store import BadInput


def said(turn="a", error=0.0, correct=True):
    return Judgement(turn=turn, correct=correct, source="ai", judge="critic", error=error)


def test_weights_have_their_known_values():
    # (1 - 2 e)^2 is 1, 0.36, 0: its mean is 0.4533
    found = weights([said(error=0.0), said(error=0.2), said(error=0.5)])
    assert found == pytest.approx([1 / 0.453333, 0.36 / 0.453333, 0], abs=1e-5)
    assert weights([said(error=0.5)] * 2).tolist() == [1, 1]


@given(st.lists(st.floats(0, 0.5), min_size=1))
def test_weights_are_1_on_average_and_fall_with_the_error(errors):
    found = weights([said(error=e) for e in errors])
    assert found.mean() == pytest.approx(1)
    assert (np.diff(found[np.argsort(errors)]) <= 1e-12).all()


def test_a_judgement_that_is_mostly_wrong_is_refused():
    with pytest.raises(BadInput, match=r"error of critic on b: 0\.7; .* turn it round"):
        weights([said("a"), said("b", error=0.7)])


def test_the_prediction_powered_mean_is_the_one_by_hand():
    found = prediction_powered([1, 0, 1, 1], [1, 0], [1, 1])
    half = 1.959964 * math.sqrt(0.25 / 4 + 0.5 / 2)
    assert found == pytest.approx((1.25, 1.25 - half, 1.25 + half), abs=1e-6)


def test_it_covers_the_truth_and_is_narrower_than_people_alone():
    rng, tries, covered, wide, narrow = np.random.default_rng(0), 400, 0, [], []
    for _ in range(tries):
        human = rng.random(2100) < 0.6
        judge = np.where(human, rng.random(2100) < 0.95, rng.random(2100) < 0.2)  # leans to yes
        found = prediction_powered(judge[100:], judge[:100], human[:100])
        covered += found.low <= 0.6 <= found.high
        narrow.append(found.high - found.low)
        wide.append(2 * 1.96 * human[:100].std(ddof=1) / 10)
    assert 0.91 <= covered / tries <= 0.985
    assert np.mean(narrow) < 0.8 * np.mean(wide)


def test_a_useless_judge_counts_for_nothing_when_tuned():
    rng, tries, covered, plain, tuned, people = np.random.default_rng(1), 400, 0, [], [], []
    for _ in range(tries):
        human, judge = rng.random(2100) < 0.6, rng.random(2100) < 0.5
        given = judge[100:], judge[:100], human[:100]
        found = prediction_powered(*given, tuned=True)
        covered += found.low <= 0.6 <= found.high
        tuned.append(found.high - found.low)
        wide = prediction_powered(*given)
        plain.append(wide.high - wide.low)
        people.append(2 * 1.96 * human[:100].std(ddof=1) / 10)
    assert 0.91 <= covered / tries <= 0.985
    assert np.mean(tuned) == pytest.approx(np.mean(people), rel=0.02)
    assert np.mean(plain) > 1.3 * np.mean(people)
    assert prediction_powered([1, 1], [1, 1], [0, 1], tuned=True).value == 0.5


def test_prediction_power_needs_items_of_both():
    with pytest.raises(BadInput, match="3 judged, 2 and 1 of both"):
        prediction_powered([1, 0, 1], [1, 0], [1])


def test_the_unsure_go_to_people_while_budget_lasts():
    judged = [said(turn) for turn in "abcdef"]
    confidence = [0.9, 0.5, 0.8, math.nan, 0.7, 0.95]
    found = escalate(judged, confidence, Threshold(0.9, 0.12, 50), budget=2)
    assert [(j.turn, j.error) for j in found.trusted] == [("a", 0.12), ("f", 0.12)]
    assert [j.turn for j in found.asked] == ["d", "b"]
    assert [j.turn for j in found.dropped] == ["e", "c"]


def test_without_a_threshold_nobody_is_trusted():
    found = escalate([said("a"), said("b")], [1.0, 0.9], None, budget=1)
    assert not found.trusted
    assert [j.turn for j in found.asked + found.dropped] == ["b", "a"]


@given(
    st.lists(st.floats(0, 1) | st.just(math.nan), max_size=30), st.floats(0, 1), st.integers(0, 9)
)
def test_every_judgement_has_one_fate(confidence, least, budget):
    judged = [said(str(i)) for i in range(len(confidence))]
    found = escalate(judged, confidence, Threshold(least, 0.1, 30), budget)
    fates = [j.turn for fate in found for j in fate]
    assert sorted(fates) == sorted(j.turn for j in judged)
    assert len(found.asked) <= budget
    assert len(found.asked) == budget or not found.dropped


def test_routing_finds_where_the_judge_is_wrong():
    # the judge prefers the longer text, which is wrong where that is the worse one
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1200, 4))
    wrong = rng.random(1200) < 1 / (1 + np.exp(-3 * x[:, 0] + 2))
    picked = route(x[:200], wrong[:200], x[200:], budget=200)
    assert len(set(picked)) == 200
    assert wrong[200:][picked].mean() > 2 * wrong[200:].mean()


def test_routing_takes_what_there_is():
    assert route([[0.0], [1.0]], [0, 1], np.zeros((0, 1)), 5).tolist() == []
    assert route([[0.0], [1.0]], [0, 1], [[0.2], [0.9], [0.5]], 9).tolist() == [1, 2, 0]
    with pytest.raises(BadInput, match=r"known \(1, 1\), gain \(1,\)"):
        route([[0.0]], [1], [[1.0]], 1)
    with pytest.raises(BadInput, match="2 for 1 judgements"):
        escalate([said()], [1.0, 0.5], None, 1)
