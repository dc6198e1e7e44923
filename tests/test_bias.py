"""Every bias planted in a simulated judge is found again, within its interval."""

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from superalign.learners.bias import (
    Comparison,
    Judge,
    agreement,
    features,
    first_position_rate,
    fit_judge,
    longer_wins,
    merged,
    self_preference,
    swap_consistency,
)
from superalign.store import BadInput

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("SUPERALIGN_DATA") or ROOT.parent / "shared" / "data") / "llmbar"
PLANTED = Judge(competence=1.5, position=0.5, length=0.8, own=0.6, noise=0.1)


def pairs(rng, n, gap=3.0):
    """Pairs in both orders, not yet judged; every second one holds a text of the judge's own."""
    made = []
    for i in range(n):
        lengths = np.exp(rng.normal(5, 0.6, 2)).astype(int) + 1
        quality = rng.normal(0, gap, 2) * rng.integers(0, 2)  # as good as each other half the time
        authors = ("judge", "other") if i % 2 else ("other", "third")
        c = Comparison(
            str(i), False, "judge", authors, tuple(lengths.tolist()), tuple(quality.tolist()), None
        )
        turned = {name: getattr(c, name)[::-1] for name in ("authors", "lengths", "quality")}
        made += [c, replace(c, swapped=True, **turned)]
    return made


def judged(comparisons, judge, rng):
    wins = rng.random(len(comparisons)) < judge.prefers_first(features(comparisons))
    return [replace(c, winner=int(not won)) for c, won in zip(comparisons, wins, strict=True)]


def expected(comparisons, judge):
    """What the four shares are on average for these pairs."""
    first = judge.prefers_first(features(comparisons))
    won = np.column_stack([first, 1 - first])  # by place
    a, b = won[::2], won[1::2, ::-1]  # by text
    longer = [
        w[int(c.lengths[1] > c.lengths[0])]
        for w, c in zip(won, comparisons, strict=True)
        if c.lengths[0] != c.lengths[1]
    ]
    own = [
        w[0 if c.side > 0 else 1]
        for w, c in zip(won, comparisons, strict=True)
        if c.side and c.quality[0] == c.quality[1]
    ]
    return {
        swap_consistency: (a * b).sum(1).mean(),
        first_position_rate: first.mean(),
        longer_wins: np.mean(longer),
        self_preference: np.mean(own) - 0.5,
    }


@pytest.mark.parametrize(
    "judge",
    [PLANTED, Judge(1.0), Judge(2.0, position=-1.0), Judge(1.0, length=-0.5, own=1.5, noise=0.2)],
)
def test_intervals_of_the_shares_cover_what_was_planted(judge):
    rng, tries = np.random.default_rng(0), 40
    covered = dict.fromkeys(expected(pairs(rng, 4), judge), 0)
    for _ in range(tries):
        made = pairs(rng, 300)
        said = judged(made, judge, rng)
        for share, wanted in expected(made, judge).items():
            found = share(said)
            covered[share] += found.low <= wanted <= found.high
    assert min(covered.values()) >= 0.875 * tries


def test_intervals_of_the_fit_cover_what_was_planted():
    rng, tries = np.random.default_rng(1), 40
    covered, values = np.zeros(5), []
    for _ in range(tries):
        fit = fit_judge(judged(pairs(rng, 800), PLANTED, rng))
        covered += [e.low <= planted <= e.high for e, planted in zip(fit, PLANTED, strict=True)]
        values.append([e.value for e in fit])
    assert covered.min() >= 0.85 * tries
    assert np.mean(values, axis=0) == pytest.approx(PLANTED, abs=0.1)


def test_the_fit_takes_length_and_quality_apart():
    # longer texts are better and the judge looks at quality alone
    rng = np.random.default_rng(2)
    made = [
        replace(c, quality=tuple(np.log(c.lengths).tolist()), authors=("other", "third"))
        for c in pairs(rng, 3000)
    ]
    made = [
        replace(c, quality=tuple((np.array(c.quality) + rng.normal(0, 0.5, 2)).tolist()))
        for c in made
    ]
    said = judged(made, Judge(competence=1.5), rng)
    share = longer_wins(said)
    assert share is not None and share.low > 0.6  # which looks like a bias
    fit = fit_judge(said)
    assert fit.length.low < 0 < fit.length.high
    assert fit.competence.low > 1
    assert fit.own.high == np.inf  # nothing was its own, so nothing is known


def test_a_judge_that_only_sees_positions():
    made = pairs(np.random.default_rng(3), 50)
    said = [replace(c, winner=0) for c in made]
    found = swap_consistency(said), first_position_rate(said), self_preference(said)
    assert [e.value for e in found if e] == [0.0, 1.0, 0.0]
    with pytest.raises(BadInput, match="needs wins of both positions"):
        fit_judge(said)


def test_an_unswayed_judge_is_consistent():
    made = pairs(np.random.default_rng(4), 50)
    said = [replace(c, winner=int(c.swapped)) for c in made]
    found = swap_consistency(said), first_position_rate(said)
    assert [e.value for e in found if e] == [1.0, 0.5]


def test_ties_are_consistent_with_ties_alone():
    made = pairs(np.random.default_rng(5), 2)
    ties = [replace(c, winner=None) for c in made]
    found = swap_consistency(ties)
    assert found is not None and found.value == 1.0
    found = swap_consistency([ties[0], replace(made[1], winner=0)])
    assert found is not None and found.value == 0.0


def test_a_winner_must_win_in_both_orders():
    made = pairs(np.random.default_rng(8), 3)
    places = (
        0,
        1,
        0,
        0,
        None,
        1,
    )  # the first text twice; whatever comes first; a tie and the first
    said = [replace(c, winner=place) for c, place in zip(made, places, strict=True)]
    assert merged(said, "judge") == {"0": 0, "1": None, "2": None}
    assert merged(said, "somebody else") == {}


def test_agreement_counts_ties_or_leaves_them_out():
    one = {"a": 0, "b": 1, "c": None, "d": None, "e": 1}
    other = {"a": 0, "b": 0, "c": None, "d": 1, "f": 0}
    with_ties, without = agreement(one, other, ties=True), agreement(one, other, ties=False)
    assert with_ties is not None and without is not None
    assert (with_ties.value, without.value) == (0.5, 0.5)
    assert agreement({"a": None}, {"a": 0}, ties=False) is None


@pytest.mark.parametrize(("ties", "chance"), [(True, 1 / 3), (False, 1 / 2)])
def test_agreement_by_chance_is_the_known_one(ties, chance):
    rng = np.random.default_rng(9)
    one, other = (
        {str(i): (0, 1, None)[place] for i, place in enumerate(rng.integers(0, 3, 4000))}
        for _ in range(2)
    )
    found = agreement(one, other, ties)
    assert found is not None and found.low < chance < found.high


def test_nothing_is_estimated_from_nothing():
    made = pairs(np.random.default_rng(6), 3)
    assert [share([]) for share in (swap_consistency, first_position_rate, longer_wins)] == [
        None
    ] * 3
    assert first_position_rate(made) is None  # all ties
    assert swap_consistency([c for c in made if not c.swapped]) is None
    assert self_preference([c for c in made if not c.side]) is None


def test_an_order_that_was_judged_twice_is_refused():
    made = pairs(np.random.default_rng(7), 1)
    twice = [replace(made[0], winner=0), replace(made[0], winner=1)]
    with pytest.raises(BadInput, match="pair '0': judge said two things of one order"):
        swap_consistency(twice)


@pytest.fixture(scope="module")
def llmbar():
    """Verdicts of real judges under the prompt Vanilla on the 419 items of its authors."""
    path = DATA / "judgments.jsonl.gz"
    if not path.is_file():
        pytest.skip("needs llmbar/judgments.jsonl.gz; set $SUPERALIGN_DATA")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = {}
    for row in rows:
        if row["strategy"] != "Vanilla" or not row["item"].startswith("LLMBar/"):
            continue
        for swapped, winner in enumerate((row["winner"], row["winner_swapped"])):
            if winner is None:  # it could not be read
                continue
            told = (row["item"], bool(swapped), row["judge"], ("a", "b"), (1, 1), (0.0, 0.0))
            place = (winner - 1) ^ swapped
            found.setdefault(row["judge"], []).append(Comparison(*told, winner=place))
    return found


@pytest.mark.parametrize(
    ("judge", "consistent"),
    [("GPT-4", 0.9284), ("Falcon", 0.4153), ("ChatGPT", 0.6587)],
)
def test_swap_consistency_is_the_published_one(llmbar, judge, consistent):
    found = swap_consistency(llmbar[judge])
    assert found is not None
    assert found.value == pytest.approx(consistent, abs=5e-5)
    assert found.low < consistent < found.high
