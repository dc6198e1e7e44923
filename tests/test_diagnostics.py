"""Diagnostics against values worked out by hand, invariances, and known expectations."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.learners import diversity, gaming, gap
from superalign.learners.estimates import Estimate, change, mean_interval, of_table, wilson
from superalign.store import BadInput

WORDS = st.lists(st.sampled_from("abcd"), max_size=12)


def sure(value, half=0.01):
    return Estimate(value, value - half, value + half)


# Intervals.


def test_shares_have_their_known_intervals_and_no_data_has_none():
    assert wilson(8, 10) == pytest.approx((0.8, 0.490162, 0.943318), abs=1e-6)
    assert wilson(0, 0) is None and mean_interval([]) is None
    assert mean_interval([0.3]) == (0.3, -math.inf, math.inf)


def test_change_of_two_shares_is_newcombes_interval():
    # Newcombe 1998, Table II, case (a), method 10: 56/70 against 48/80
    first, second = wilson(48, 80), wilson(56, 70)
    assert first and second
    assert change(first, second) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng, covered = np.random.default_rng(0), Counter()
    for seed in range(200):
        found = mean_interval(rng.exponential(size=60), seed)
        moved = change(*(e for e in (wilson(rng.binomial(80, p), 80) for p in (0.5, 0.7)) if e))
        table = of_table(rng.multinomial(80, (0.3, 0.2, 0.1, 0.4)).tolist(), gaming.matthews, seed)
        covered["mean"] += found is not None and found.low <= 1 <= found.high
        covered["change"] += moved.low <= 0.2 <= moved.high
        mcc = float(gaming.matthews(np.array((0.3, 0.2, 0.1, 0.4))))
        covered["mcc"] += table.low <= mcc <= table.high
    assert all(0.89 < hits / 200 <= 0.995 for hits in covered.values()), covered


# Diversity.


def test_ngrams_are_counted_as_by_hand():
    texts = ["a b a b".split(), "a b c d".split()]
    assert diversity.distinct_n(texts, 1) == 4 / 8
    assert diversity.distinct_n(texts, 2) == 4 / 6  # ab ba ab, ab bc cd
    assert diversity.distinct_n(texts, 4) == 1
    assert diversity.distinct_n(texts, 5) is None
    assert diversity.type_token_ratio(texts) == (2 / 4 + 4 / 4) / 2


def test_self_bleu_has_its_hand_worked_value():
    texts = ["a b c d e".split(), "a b c d f".split()]
    # of both texts 4/5 words, 3/4 pairs, 2/3 triples and 1/2 quadruples are in the other
    assert diversity.self_bleu(texts) == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 / 2) ** 0.25)
    # of "a a b" two words are in "a b b" (its a, its b), one pair in two, and its triple is not
    clipped = [["a", "a", "b"], ["a", "b", "b"]]
    assert diversity.self_bleu(clipped, 3) == pytest.approx((2 / 3 * 1 / 2 * 0.1) ** (1 / 3))


def test_self_bleu_is_1_of_copies_and_small_of_strangers():
    assert diversity.self_bleu([list("abcdef")] * 3) == pytest.approx(1)
    apart = diversity.self_bleu([list("abcdef"), list("ghijkl"), list("mnopqr")])
    assert apart is not None and apart < 0.05
    with pytest.raises(BadInput, match="see level"):
        diversity.self_bleu([list("abcdef"), list("abcd")])


def test_level_makes_length_and_count_alike():
    groups = [["one two three four"] * 10 + ["one"], ["a b c, d e f g"] * 4]
    cut = diversity.level(groups)
    assert [len(group) for group in cut] == [4, 4]
    assert {len(text) for group in cut for text in group} == {4}
    assert cut[1][0] == ["a", "b", "c", ","]
    with pytest.raises(BadInput, match="length"):
        diversity.level(groups, 9)
    with pytest.raises(BadInput, match="holds no text"):
        diversity.level([["a"], []])


def test_longer_texts_do_not_look_less_diverse_once_levelled():
    """The pitfall: of the same source, distinct-3 falls with length."""
    rng = random.Random(0)

    def text(length):
        return " ".join(rng.choice("abcdefghijklmnop") for _ in range(length))

    short, long = [text(20) for _ in range(50)], [text(80) for _ in range(50)]
    raw = [diversity.distinct_n([t.split() for t in group], 3) for group in (short, long)]
    level = [diversity.distinct_n(group, 3) for group in diversity.level([short, long])]
    assert raw[0] and raw[1] and level[0] and level[1]
    assert raw[0] - raw[1] > 0.2 and abs(level[0] - level[1]) < 0.05


def test_edit_distance_has_its_known_values():
    known = {("kitten", "sitting"): 3, ("flaw", "lawn"): 2, ("", "abc"): 3, ("abc", "abc"): 0}
    assert {pair: diversity.edit_distance(*pair) for pair in known} == known
    assert diversity.edit_diversity(["aa", "ab", "bb"]) == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert diversity.edit_diversity(["a"]) is None


@given(WORDS, WORDS, WORDS)
def test_edit_distance_is_a_metric(a, b, c):
    d = diversity.edit_distance
    assert d(a, b) == d(b, a) and (d(a, b) == 0) == (a == b)
    assert abs(len(a) - len(b)) <= d(a, b) <= max(len(a), len(b))
    assert d(a, c) <= d(a, b) + d(b, c)


def test_semantic_diversity_is_the_mean_over_pairs():
    vectors = np.random.default_rng(1).normal(size=(5, 3))

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    pairs = [cosine(vectors[i], vectors[j]) for i in range(5) for j in range(i)]
    found = diversity.semantic_diversity(list("abcde"), lambda _: vectors)
    assert found == pytest.approx(1 - sum(pairs) / len(pairs))
    with pytest.raises(BadInput, match="one row each"):
        diversity.semantic_diversity(["a", "b"], lambda _: np.zeros((2, 3)))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.randoms())
def test_effective_number_lies_between_1_and_the_distinct(drawn, rng):
    found = diversity.effective_number(drawn)
    shuffled = [f"x{value}" for value in drawn]
    rng.shuffle(shuffled)
    assert found is not None and 1 - 1e-9 <= found <= len(set(drawn)) + 1e-9
    assert diversity.effective_number(shuffled) == pytest.approx(found)


def test_even_samples_count_in_full_and_items_each_for_themselves():
    assert diversity.effective_number("aabbcc") == pytest.approx(3)
    assert diversity.effective_number([]) is None
    assert list(diversity.distinct_answers([[1, 1, 1, 1], [1, 2, 3, 3]])) == [0.25, 0.75]


def test_pass_at_k_has_its_known_values_and_is_unbiased():
    assert diversity.pass_at_k(5, 2, 1) == pytest.approx(0.4)
    assert diversity.pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert diversity.pass_at_k(4, 3, 2) == 1 and diversity.pass_at_k(4, 0, 4) == 0
    p, n, k = 0.3, 6, 3
    chance = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    expected = sum(chance[c] * diversity.pass_at_k(n, c, k) for c in range(n + 1))
    assert expected == pytest.approx(1 - (1 - p) ** k)
    with pytest.raises(BadInput, match="draw at least k"):
        diversity.pass_at_k(4, 1, 5)


# The generation-verification gap, and what improved.


def test_the_gap_has_its_known_answer_and_counts_what_is_solved():
    found = gap.gap_of([0.8, 0.2], [0.9, 0.5])
    assert found.gap and found.relative
    assert found.relative.value == pytest.approx(0.4375)
    assert found.gap.value == pytest.approx(0.2)
    with_solved = gap.gap_of([0.8, 0.2, 1.0], [0.9, 0.5, 1.0])
    assert with_solved.relative and with_solved.solved == 1 and with_solved.items == 3
    assert with_solved.relative.value == pytest.approx(0.4375)
    assert gap.gap_of([1.0], [1.0]).relative is None


def drawn(items, each, rng, proxy):
    samples = [[float(rng.random() < p) for _ in range(each)] for p in rng.uniform(0, 1, items)]
    return [[gap.Sample(u, proxy(u)) for u in item] for item in samples]


def test_a_perfect_verifier_gains_all_there_is_and_a_blind_one_nothing():
    rng = np.random.default_rng(0)
    perfect = gap.measure_gap(drawn(200, 16, rng, lambda u: u))
    assert perfect.relative and perfect.relative.value == 1 and perfect.threshold == 1
    assert 0 < perfect.unkept < 40  # items of which nothing is right
    blind = [gap.measure_gap(drawn(60, 8, rng, lambda u: rng.random()), 2) for _ in range(30)]
    unbiased = mean_interval([found.gap.value for found in blind if found.gap])
    assert unbiased and unbiased.low < 0 < unbiased.high


def test_a_threshold_chosen_on_the_same_samples_flatters_a_blind_verifier():
    rng, same = np.random.default_rng(1), []
    for _ in range(30):
        items = drawn(60, 8, rng, lambda u: rng.random())
        threshold = gap.best_threshold(items, 2)
        kept = [[s.utility for s in item if s.proxy >= threshold] for item in items]
        pairs = [
            (np.mean([s.utility for s in item]), np.mean(of))
            for item, of in zip(items, kept, strict=True)
            if len(of) >= 2
        ]
        found = gap.gap_of(*map(list, zip(*pairs, strict=True))).gap
        assert found
        same.append(found.value)
    inflated = mean_interval(same)
    assert inflated and inflated.low > 0


def test_newly_solved_items_are_told_into_reached_and_acquired():
    first = {"a": False, "b": False, "c": True, "d": False}
    last = {"a": True, "b": True, "c": True, "d": False, "new": True}
    samples = {"a": [True, False, False, False], "b": [False] * 4}
    found = gap.improved(first, last, samples, k=2)
    assert found.solved == 2 and found.acquired == 1
    assert found.reached and found.reached.value == pytest.approx((0.5 + 0) / 2)
    with pytest.raises(BadInput, match="'b', have less than 2"):
        gap.improved(first, last, {"a": samples["a"]}, k=2)


def test_groups_are_compared_and_must_not_overlap():
    results = {f"e{i}": i < 9 for i in range(10)} | {f"h{i}": i < 3 for i in range(10)}
    easy, hard = frozenset(f"e{i}" for i in range(10)), frozenset(f"h{i}" for i in range(10))
    found = gap.group_gap(results, easy, hard)
    assert found and found.value == pytest.approx(0.6) and found.low > 0.1
    assert gap.accuracy(results) == wilson(12, 20) and gap.accuracy(results, hard) == wilson(3, 10)
    assert gap.group_gap(results, easy, frozenset()) is None
    with pytest.raises(BadInput, match="in both"):
        gap.group_gap(results, easy, easy)


# Gaming.


def test_pairs_count_only_beyond_their_intervals():
    rising = [gaming.Checkpoint(sure(p), sure(g)) for p, g in [(0.1, 0.5), (0.3, 0.6), (0.5, 0.2)]]
    # of three pairs the proxy orders all; the last checkpoint is worse than both before
    assert gaming.hacking(rising) == (2, 3, 2 / 3, pytest.approx(-1 / 3))
    blurred = [gaming.Checkpoint(c.proxy, Estimate(c.gold.value, 0, 1)) for c in rising]
    assert gaming.hacking(blurred)[:3] == (0, 3, 0.0)
    same = [gaming.Checkpoint(sure(0.5, 0.2), sure(0.5)) for _ in range(3)]
    assert gaming.hacking(same) == (0, 0, None, None)
    assert gaming.hacking([]) == (0, 0, None, None)


def test_noise_alone_is_rarely_called_hacking():
    """Equal policies: raw values disagree in half of all pairs, clear ones almost never."""
    rng, raw, clear = np.random.default_rng(0), 0, 0
    for _ in range(40):
        drawn = [wilson(hits, 200) for hits in rng.binomial(200, 0.5, 12)]
        shares = [estimate for estimate in drawn if estimate]
        points = [gaming.Checkpoint(*pair) for pair in zip(shares[:6], shares[6:], strict=True)]
        found = gaming.hacking(points)
        clear += found.discordant
        raw += sum(
            (a.proxy.value - b.proxy.value) * (a.gold.value - b.gold.value) < 0
            for a in points
            for b in points
        )
    assert raw / (40 * 30) > 0.4 and clear / (40 * 15) < 0.01


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6))
def test_hacking_does_not_depend_on_the_order_of_checkpoints(values):
    points = [gaming.Checkpoint(sure(p), sure(g)) for p, g in values]
    assert gaming.hacking(points)[:3] == gaming.hacking(points[::-1])[:3]


def test_onset_is_where_gold_turns_down_for_good():
    def course(*values):
        return [gaming.Checkpoint(sure(p), sure(g)) for p, g in values]

    turned = course((0.1, 0.3), (0.2, 0.4), (0.3, 0.5), (0.4, 0.45), (0.5, 0.4))
    assert gaming.onset(turned) == 2 and gaming.onset(turned, 3) is None
    dip = course((0.1, 0.5), (0.2, 0.45), (0.3, 0.5), (0.4, 0.55))
    assert gaming.onset(dip) is None and gaming.onset(dip, 1) == 0
    slight = course((0.1, 0.5), (0.2, 0.499), (0.3, 0.498))
    assert gaming.onset(slight) is None
    with pytest.raises(BadInput, match="window"):
        gaming.onset(dip, 0)


def test_oversight_is_counted_as_by_hand():
    seen = gaming.oversight({(True, True): 30, (True, False): 20, (False, True): 10})
    assert seen.n == 60
    values = [e and e.value for e in seen[:5]]
    assert values == pytest.approx([50 / 60, 40 / 60, 30 / 60, 1.0, 10 / 60])
    assert seen.mcc and seen.mcc.value == pytest.approx(-200 / math.sqrt(50 * 40 * 20 * 10))
    nothing = gaming.oversight({})
    assert nothing[:-1] == (None,) * 7 and nothing.n == 0
    assert seen.informedness and seen.informedness.value == pytest.approx(0.75 - 1)


def test_a_learner_that_is_nearly_always_right_ruins_mcc_but_not_informedness():
    """The same critic accepts nine right answers in ten and one wrong in ten."""

    def judged(right, wrong):
        cases = {(True, True): 0.9 * right, (False, True): 0.1 * right}
        cases |= {(True, False): 0.1 * wrong, (False, False): 0.9 * wrong}
        return gaming.oversight({case: round(n) for case, n in cases.items()})

    even, solved = judged(500, 500), judged(990, 10)
    assert even.mcc and solved.mcc and even.informedness and solved.informedness
    assert even.mcc.value == pytest.approx(0.8) and solved.mcc.value < 0.3
    assert solved.informedness.value == pytest.approx(even.informedness.value) == 0.8


def test_an_overseer_who_approves_everything_has_mcc_0_and_a_width():
    mcc = gaming.oversight({(True, True): 4, (True, False): 1}).mcc
    assert mcc and mcc.value == 0 and mcc.low < -0.1 and mcc.high > 0.1


@given(st.tuples(*[st.integers(0, 50)] * 4).filter(any))
def test_mcc_changes_sign_with_the_verdict_and_is_bounded(table):
    tp, fp, fn, tn = table
    mcc = float(gaming.matthews(np.array(table)))
    assert -1 - 1e-9 <= mcc <= 1 + 1e-9
    assert float(gaming.matthews(np.array((fn, tn, tp, fp)))) == pytest.approx(-mcc)


def test_evaluators_are_paired_with_themselves():
    def cases(wrong):
        return {(True, True): 10 - wrong, (True, False): wrong}

    before = {"ann": cases(1), "bob": cases(2), "cy": cases(3), "only before": cases(0)}
    after = {"ann": cases(3), "bob": cases(5), "cy": cases(2)}
    found = gaming.evaluators(before, after)
    assert found and found.n == 3 and found.worse.value == pytest.approx(2 / 3)
    assert found.rise == pytest.approx((0.2 + 0.3 - 0.1) / 3)
    t = found.rise / (np.std([0.2, 0.3, -0.1], ddof=1) / math.sqrt(3))
    # with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert gaming.evaluators({}, after) is None
