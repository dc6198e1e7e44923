"""Planted confusion matrices are found again, and doubt is as large as it should be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some

from superalign.learners.dawid_skene import maximise, sample
from superalign.learners.selective import NONE, find_threshold
from superalign.store import BadInput

SHARES = np.array([0.6, 0.4])
CONFUSION = np.array(
    [
        [[0.9, 0.1], [0.2, 0.8]],
        [[0.6, 0.4], [0.4, 0.6]],
        [[0.7, 0.3], [0.1, 0.9]],
        [[0.85, 0.15], [0.35, 0.65]],
    ]
)


def drawn(rng, items, shares=SHARES, confusion=CONFUSION, silent=0.0):
    """True labels, and what each judge says of them."""
    true_I = rng.choice(len(shares), items, p=shares)
    rows = confusion[:, true_I].cumsum(-1)
    said = (rows < rng.random((len(confusion), items, 1))).sum(-1).T
    return true_I, np.where(rng.random(said.shape) < silent, NONE, said)


def test_planted_matrices_are_found_by_both_methods():
    true_I, said = drawn(np.random.default_rng(0), 4000, silent=0.2)
    likely, posterior = maximise(said, 2), sample(said, 2, draws=300, burn=100)
    for found in (likely, posterior.mean):
        assert found.confusion_J_T_L == pytest.approx(CONFUSION, abs=0.06)
        assert found.shares_T == pytest.approx(SHARES, abs=0.05)
    heard = (said != NONE).sum(1)
    majority = (said == 1).sum(1) > heard / 2
    assert (likely.p_I_T.argmax(1) == true_I).mean() > (majority == true_I).mean() + 0.01


def test_three_labels_are_told_apart():
    confusion = np.array(
        [np.full((3, 3), e / 2) + (1 - 1.5 * e) * np.eye(3) for e in (0.1, 0.3, 0.4)]
    )
    _, said = drawn(np.random.default_rng(1), 3000, np.array([0.5, 0.3, 0.2]), confusion)
    assert maximise(said, 3).confusion_J_T_L == pytest.approx(confusion, abs=0.07)


def test_intervals_of_the_posterior_cover_what_was_planted():
    covered = []
    for seed in range(15):
        _, said = drawn(np.random.default_rng(seed), 400)
        low, high = sample(said, 2, draws=300, burn=100, seed=seed).confusion_ci
        covered += ((low <= CONFUSION) & (high >= CONFUSION))[..., 0].ravel().tolist()
    assert 0.88 <= np.mean(covered) <= 1


def test_flip_probabilities_are_calibrated():
    true_I, said = drawn(np.random.default_rng(3), 6000, silent=0.1)
    flip = maximise(said, 2).flip_prob(said)
    wrong = said != true_I[:, None]
    assert (np.isnan(flip) == (said == NONE)).all()
    for low, high in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1)):
        within = (flip > low) & (flip <= high)
        assert within.sum() > 100
        assert flip[within].mean() == pytest.approx(wrong[within].mean(), abs=0.05)


def test_a_judge_of_known_errors_gives_the_known_posterior():
    # 100 known items of each label, 90 of them heard right, and one that is not known
    said = np.array([0] * 90 + [1] * 10 + [1] * 90 + [0] * 10 + [0])[:, None]
    known = np.array([0] * 100 + [1] * 100 + [NONE])
    found = maximise(said, 2, known)
    p = found.p_I_T[-1, 0]
    right, lied, share = (91 + p) / (101 + p), (11 - p) / (102 - p), (100 + p) / 201
    assert found.confusion_J_T_L[0, 0, 0] == pytest.approx(right, abs=1e-4)
    assert p == pytest.approx(share * right / (share * right + (1 - share) * lied), abs=1e-4)
    assert found.p_I_T[:200] == pytest.approx(np.eye(2)[known[:200]])


def test_known_labels_turn_a_judge_that_lies():
    rng = np.random.default_rng(4)
    lying = np.array([[[0.1, 0.9], [0.9, 0.1]], [[0.2, 0.8], [0.1, 0.9]]])
    true_I, said = drawn(rng, 1000, confusion=lying)
    known = np.where(np.arange(1000) < 200, true_I, NONE)
    found = maximise(said, 2, known)
    assert (found.p_I_T.argmax(1) == true_I)[200:].mean() > 0.88
    assert found.confusion_J_T_L[0] == pytest.approx(lying[0], abs=0.06)


def test_judges_that_err_together_are_believed_too_much_and_a_threshold_sees_it():
    rng = np.random.default_rng(5)
    true_I = rng.integers(0, 2, 1000)
    trap_I = rng.random(1000) < 0.3  # all of them fall into the same trap
    own_I_J = rng.random((1000, 3)) < 0.05
    said = (true_I ^ trap_I)[:, None] ^ own_I_J
    found = maximise(said.astype(int), 2)
    label_I, sure_I = found.p_I_T.argmax(1), found.p_I_T.max(1)
    wrong_I = label_I != true_I
    assert 1 - sure_I.mean() < 0.05 < 0.25 < wrong_I.mean()
    assert find_threshold(sure_I, wrong_I, 0.1, 0.1) is None
    assert find_threshold(sure_I, wrong_I, 0.4, 0.1) is not None


@settings(max_examples=30)
@given(some.arrays(int, st.tuples(st.integers(2, 12), st.just(3)), elements=st.integers(NONE, 1)))
def test_names_of_labels_and_order_of_judges_do_not_matter(said):
    found = maximise(said, 2)
    assert found.p_I_T.sum(1) == pytest.approx(np.ones(len(said)))
    renamed = maximise(np.where(said == NONE, NONE, 1 - said), 2)
    assert renamed.p_I_T[:, ::-1] == pytest.approx(found.p_I_T, abs=1e-3)
    turned = maximise(said[:, ::-1], 2)
    assert turned.p_I_T == pytest.approx(found.p_I_T, abs=1e-3)
    assert turned.confusion_J_T_L[::-1] == pytest.approx(found.confusion_J_T_L, abs=1e-3)


def test_silence_tells_nothing():
    found = sample(np.full((5, 2), NONE), 2, draws=2000)
    assert found.mean.p_I_T == pytest.approx(np.full((5, 2), 0.5), abs=0.05)
    assert np.isnan(found.mean.flip_prob(np.full((5, 2), NONE))).all()


def test_labels_that_are_none_are_refused():
    with pytest.raises(BadInput, match="said: labels are 0 to 1"):
        maximise([[0, 2]], 2)
    with pytest.raises(BadInput, match="known: labels are 0 to 1"):
        maximise([[0, 1]], 2, [7])
    with pytest.raises(BadInput, match=r"known \(2,\)"):
        maximise([[0, 1]], 2, [0, 1])
