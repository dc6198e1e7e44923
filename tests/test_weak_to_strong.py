"""Weak-to-strong learning: the schedules, balanced thresholds, labels, and the gap recovered."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from superalign.learners import LEARNERS, learn_config, learner, pgr
from superalign.learners import weak_to_strong as w2s
from superalign.store.errors import BadInput
from superalign.store.records import Message, Row


def row(n, p=0.8, **more):
    """Is n even? The first reply says that it is."""
    label = p if n % 2 == 0 else 1 - p
    told = {"replies": ("yes", "no"), "rewards": (label, 1 - label), "turns": (f"r/e{n}/1",)}
    prompt = (Message(role="user", content=f"{n} even"),)
    told |= {"kind": "rank", "seat": "judge", "prompt": prompt, "source": "ai", "judge": "weak"}
    return Row(**{**told, **more})


ROWS = [row(n) for n in range(8)]


def config(**more) -> Any:
    return learn_config({"method": "weak_to_strong", "steps": 2, "batch": 8, **more})


# Pure functions.


def test_the_gap_recovered_is_as_worked_out_by_hand():
    assert pgr.pgr(0.60, 0.78, 0.90) == pytest.approx(0.6, abs=1e-6)
    assert pgr.pgr(0.5, 0.5, 0.9) == 0
    assert pgr.pgr(0.5, 0.9, 0.9) == 1
    assert pgr.pgr(0.6, 0.5, 0.8) == pytest.approx(-0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("schedule", "most", "wanted"),
    [
        ("paper", 0.75, (0.1875, 0.375, 0.4125, 0.75, 0.75)),
        ("released", 0.5, (0.025, 0.05, 0.5, 0.5, 0.5)),
    ],
)
def test_the_schedules_are_those_of_paper_and_code(schedule, most, wanted):
    told = config(schedule=schedule, confidence=most)
    got = [w2s.confidence_weight(told, done) for done in (0.05, 0.1, 0.11, 0.2, 1.0)]
    assert got == pytest.approx(wanted, abs=1e-6)


@given(
    first=st.lists(st.floats(0, 1), min_size=2, max_size=64, unique=True),
    prior=st.floats(0.05, 0.95),
)
def test_as_many_are_called_positive_as_the_prior_says(first, prior):
    probs = torch.tensor(first, dtype=torch.float64)
    cut = w2s.threshold(probs, torch.zeros(len(first)), prior)
    assert abs((probs > cut).sum().item() - prior * len(first)) <= 1
    weak = torch.full_like(probs, prior)
    assert w2s.threshold(probs, weak, None) == pytest.approx(cut, abs=1e-6)


def test_targets_mix_weak_labels_with_hardened_predictions():
    probs, weak = torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([[0.3, 0.7], [0.3, 0.7]])
    got = w2s.targets(probs, weak, 0.5, cut=0.7)
    torch.testing.assert_close(got, torch.tensor([[0.65, 0.35], [0.15, 0.85]]))
    assert w2s.targets(probs, weak, 0.0, 0.0) is weak


def test_a_gap_that_is_no_gap_is_refused():
    with pytest.raises(BadInput, match="too small"):
        pgr.pgr(0.89, 0.9, 0.9)
    rng = np.random.default_rng(0)
    weak, transfer, ceiling = rng.random((3, 3, 200)) < 0.7
    with pytest.raises(BadInput, match="holds 0"):
        pgr.recovered(weak, transfer, ceiling)


def test_other_shapes_and_values_are_refused():
    with pytest.raises(BadInput, match="same seeds x items"):
        pgr.recovered([[1, 0]], [[1, 0, 1]], [[1, 1]])
    with pytest.raises(BadInput, match="1 if it is right"):
        pgr.recovered([0.4, 1], [1, 1], [1, 1])
    with pytest.raises(BadInput, match="same items"):
        pgr.agreement([1], [1, 0], [1, 0])


def planted(rng, seeds, items):
    """Easy items are solved by all, hard ones by a strong model alone, as far as it was taught."""
    ease = rng.random((seeds, items))
    return ease < 0.6, ease < 0.78, ease < 0.9


def test_the_interval_covers_what_was_planted():
    covered = []
    for seed in range(25):
        found = pgr.recovered(*planted(np.random.default_rng(seed), 3, 300), seed=seed)
        covered.append(found.pgr.low <= 0.6 <= found.pgr.high)
        assert found.pgr.low <= found.pgr.value <= found.pgr.high
        assert found.gap.value == pytest.approx(found.ceiling - found.weak)
    assert np.mean(covered) >= 0.85


def test_who_is_right_where_does_not_depend_on_the_order_of_items():
    weak, transfer, ceiling = planted(np.random.default_rng(0), 1, 500)
    order = np.random.default_rng(1).permutation(500)
    there = pgr.recovered(weak[0], transfer[0], ceiling[0])
    back = pgr.recovered(weak[:, order], transfer[:, order], ceiling[:, order])
    assert back.pgr.value == there.pgr.value
    assert back.pgr.low == pytest.approx(there.pgr.low, abs=0.05)


def test_paired_intervals_are_narrower_than_those_of_separate_items():
    weak, transfer, ceiling = planted(np.random.default_rng(0), 1, 500)
    rng = np.random.default_rng(1)
    apart = pgr.recovered(weak, rng.permuted(transfer, axis=1), rng.permuted(ceiling, axis=1))
    paired = pgr.recovered(weak, transfer, ceiling)
    assert paired.pgr.high - paired.pgr.low < 0.7 * (apart.pgr.high - apart.pgr.low)


def test_agreement_tells_imitated_errors():
    found = pgr.agreement([1, 1, 0, 0, 1], [1, 0, 0, 1, 1], [1, 1, 0, 0, 0])
    assert found.where_right is not None
    assert found.where_wrong is not None
    assert found.where_right.value == 1
    assert found.where_wrong.value == pytest.approx(1 / 3)
    assert pgr.agreement([1], [1], [1]).where_wrong is None


# Labels.


def test_ensembles_of_three():
    p = [[[0.9, 0.1], [0.4, 0.6]], [[0.6, 0.4], [0.4, 0.6]], [[0.3, 0.7], [0.9, 0.1]]]
    assert w2s.combine(p, "mean") == pytest.approx(np.mean(p, 0))
    third = 1 / 3
    assert w2s.combine(p, "majority") == pytest.approx(
        np.array([[2 * third, third], [third, 2 * third]])
    )


def test_dawid_skene_finds_the_specialist():
    """One that is right nearly always outweighs two that are hardly better than coins."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 2000)
    said = [np.where(rng.random(2000) < skill, truth, 1 - truth) for skill in (0.95, 0.6, 0.6, 0.6)]
    p_J_R_K = np.eye(2)[said] * 0.8 + 0.1
    right = {
        how: (w2s.combine(p_J_R_K, how).argmax(-1) == truth).mean()
        for how in ("mean", "majority", "dawid_skene")
    }
    assert right["dawid_skene"] > 0.9 > right["mean"]
    assert right["dawid_skene"] > right["majority"]


def test_rewards_that_are_no_probabilities_are_refused(base, tmp_path):
    for wrong in ((0.5, 0.6), (-0.1, 1.1)):
        with pytest.raises(BadInput, match="must sum to 1"):
            LEARNERS["weak_to_strong"](base, [row(1, rewards=wrong)], config(), tmp_path)
    with pytest.raises(BadInput, match="with a label"):
        LEARNERS["weak_to_strong"](base, [row(1, rewards=None)], config(), tmp_path)
    three = [row(1, replies=("a", "b", "c"), rewards=(0.2, 0.5, 0.3))]
    with pytest.raises(BadInput, match=r"set learn\.confidence: 0"):
        LEARNERS["weak_to_strong"](base, three, config(), tmp_path)
    assert LEARNERS["weak_to_strong"](base, three, config(confidence=0), tmp_path)["rows"] == 1


# Learning.


def test_naive_learning_reaches_the_soft_labels(base, tmp_path):
    told = config(confidence=0, steps=60, lr=1e-2)
    metrics = LEARNERS["weak_to_strong"](base, ROWS, told, tmp_path)
    p_R_K = w2s.predict(tmp_path, ROWS)
    assert p_R_K == pytest.approx(w2s.labels_of(ROWS), abs=0.1)
    assert metrics["last"]["mass"] > 0.9
    assert metrics["last"]["fit"] == 1
    assert metrics["last"]["confidence"] == 0


def test_the_confidence_loss_makes_a_learner_surer(base, tmp_path):
    sure = {}
    for name, weight in (("naive", 0.0), ("sure", 0.75)):
        told = config(confidence=weight, steps=60, lr=1e-2)
        w2s.learn(base, ROWS, told, tmp_path / name)
        sure[name] = w2s.predict(tmp_path / name, ROWS).max(-1).mean()
    assert sure["sure"] > sure["naive"] + 0.05


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_how_a_step_is_split_changes_nothing(base, tmp_path, confidence):
    told = {}
    for size in (8, 3):
        settings = config(confidence=confidence, schedule="released", steps=12, micro_batch=size)
        told[size] = w2s.learn(base, ROWS, settings, tmp_path / str(size))["last"]
    for name in ("loss", "grad_norm", "fit", "mass", "confidence"):
        assert told[3][name] == pytest.approx(told[8][name], rel=1e-3, abs=1e-5)


def test_which_reply_is_which_does_not_depend_on_the_labels(base):
    there = w2s.predict(base, ROWS)
    back = w2s.predict(base, [row(n, p=0.1) for n in range(8)])
    assert back == pytest.approx(there, abs=1e-6)
    model, tokenizer = learner.load(base)
    (example,) = w2s.encode_in_order([row(1)], model, tokenizer)
    assert [len(reply) for reply in example.replies] == [4, 3]
    assert there.sum(1) == pytest.approx(np.ones(8))


def test_a_chain_teaches_each_model_by_the_one_before(base, tmp_path):
    told = config(confidence=0, steps=40, lr=1e-2)
    metrics = w2s.bootstrap([base, base], ROWS, told, tmp_path)
    assert len(metrics) == 2
    handed_on = w2s.relabel(ROWS, w2s.predict(tmp_path / "0", ROWS), "0")
    assert {one.judge for one in handed_on} == {"0"}
    assert w2s.predict(tmp_path / "1", ROWS) == pytest.approx(w2s.labels_of(handed_on), abs=0.1)


# Labels of stored rows.


def pair(n):
    """As a run stores it: the reply that the critic held for better comes first."""
    told = {"kind": "pref", "rewards": None, "judge": "critic", "flip_prob": 0.2}
    return row(n, replies=("yes", "no") if n % 2 == 0 else ("no", "yes"), **told)


def test_a_run_s_pairs_ask_which_reply_is_right_and_their_order_tells_nothing():
    asked = w2s.unlabelled([pair(n) for n in range(8)] + [pair(0)])
    assert len(asked) == 8  # each question once
    assert {one.kind for one in asked} == {"rank"}
    assert len({one.replies for one in asked}) == 1  # whichever the critic preferred
    assert {(one.rewards, one.flip_prob) for one in asked} == {(None, 0.0)}
    ranked = [row(n) for n in range(3)]
    assert len(w2s.unlabelled(ranked)) == 3
    assert len(w2s.unlabelled([*ranked, pair(5)])) == 1  # pairs come first


def test_a_weak_model_in_a_folder_labels_stored_pairs(base, tmp_path):
    pairs = [pair(n) for n in range(8)]
    weak, by_name, by_hand = (tmp_path / name for name in ("weak", "name", "hand"))
    taught = [row(n) for n in range(8, 24)]
    LEARNERS["weak_to_strong"](base, taught, config(steps=40, lr=3e-3, confidence=0), weak)

    told = LEARNERS["weak_to_strong"](base, pairs, config(weak=str(weak), confidence=0), by_name)
    bare = w2s.unlabelled(pairs)
    labelled = w2s.relabel(bare, w2s.predict(weak, bare), "weak")
    LEARNERS["weak_to_strong"](base, labelled, config(confidence=0), by_hand)
    ours, theirs = ((out / "model.safetensors").read_bytes() for out in (by_name, by_hand))
    assert ours == theirs
    assert told["rows"] == 8
    confident = np.abs(np.array([one.rewards for one in labelled])[:, 0] - 0.5)
    assert confident.max() > 0.1  # the weak model has something to say


def test_pairs_without_a_weak_model_are_refused(base, tmp_path):
    with pytest.raises(BadInput, match=r"learn\.weak"):
        LEARNERS["weak_to_strong"](base, [pair(0)], config(), tmp_path)
