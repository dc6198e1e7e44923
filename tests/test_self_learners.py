"""Learners from the policy's own samples: what is sampled and paired, and that it is learnt."""

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superalign.learners import LEARNERS, learn_config, learner, rso, self_rewarding, spin
from superalign.store.errors import BadInput
from superalign.store.records import Message, Row


def row(n, kind="rank", **more):
    replies = (f"{2 * n}",) if kind == "sft" else (f"{2 * n + 1}", f"{2 * n}", "none", "many")
    told = {"rewards": (0.1, 1.0, -1.0, 0.0)} if kind == "rank" else {}
    told |= {"source": "ai", "judge": "learner@1", "turns": (f"r/e{n}/1:a:0/learner:0",)}
    prompt = (Message(role="user", content=f"{n}+{n}"),)
    return Row(**{**told, "kind": kind, "seat": "l", "prompt": prompt, "replies": replies, **more})


RANKS = [row(n) for n in range(8)]
GOLD = [row(n, kind="sft") for n in range(8)]
MORE = [row(n, kind="sft", turns=(f"r/e{n}/{i}",)) for n in range(8) for i in range(4)]
"""The same, each four times: a sample follows from what a row says, its turns included."""


def config(method, **more) -> Any:
    return learn_config({"method": method, "steps": 2, "batch": 8, **more})


def rng(seed=0):
    return np.random.default_rng(seed)


def learnt(base, out, rows):
    """h of every reply of the rows."""
    (new, tokenizer), (old, _) = learner.load(out), learner.load(base)
    examples = learner.encode(rows, rows[0].kind, new, tokenizer)
    batch = learner.collate(examples, range(len(rows)), new.device)
    return learner.sequence_logprobs(new, batch) - learner.sequence_logprobs(old, batch)


# Rejection sampling.


def test_the_first_pass_accepts_as_worked_out_by_hand():
    wanted = (1, 0.367879, 0.135335, 0.018316)
    assert rso.acceptance((3, 2.5, 2, 1), 0.5) == pytest.approx(wanted, abs=1e-6)


def test_replies_are_accepted_as_often_as_that():
    chances, wanted = rso.acceptance((3, 2.5, 2, 1), 0.5), np.zeros(4)
    for order in permutations(range(4)):  # every order in which a pool may be asked
        nobody = 1 / 24
        for i in order:
            wanted[i] += nobody * chances[i]
            nobody *= 1 - chances[i]
    firsts = [rso.reject((3, 2.5, 2, 1), 1, 0.5, rng(seed))[0] for seed in range(4000)]
    assert np.bincount(firsts) / 4000 == pytest.approx(wanted, abs=0.03)


@given(
    rewards=st.lists(st.floats(-5, 5), min_size=1, max_size=12),
    keep=st.integers(1, 12),
    beta_r=st.floats(0.01, 100),
    seed=st.integers(0, 9),
)
def test_what_is_accepted_are_so_many_different_places(rewards, keep, beta_r, seed):
    accepted = rso.reject(rewards, keep, beta_r, rng(seed))
    assert len(accepted) == len(set(accepted)) == min(keep, len(rewards))
    shifted = rso.reject([r + 64 for r in rewards], keep, beta_r, rng(seed))
    assert len(shifted) == len(accepted)


def test_cold_rewards_keep_the_best_and_warm_ones_any():
    rewards = np.linspace(-1, 1, 40).tolist()
    cold = rso.reject(rewards, 5, 1e-4, rng())
    assert sorted(cold) == [35, 36, 37, 38, 39]
    warm = [i for seed in range(300) for i in rso.reject(rewards, 5, 1e4, rng(seed))]
    assert np.mean([rewards[i] for i in warm]) == pytest.approx(0, abs=0.06)


@given(
    rewards=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=2, max_size=9),
    pairing=st.sampled_from(["first_round", "tournament"]),
    seed=st.integers(0, 99),
)
def test_pairs_are_in_order_and_never_of_equals(rewards, pairing, seed):
    pairs = list(rso.pair_up(range(len(rewards)), rewards, pairing, rng(seed)))
    assert all(rewards[a] > rewards[b] for a, b in pairs)
    losers = [b for _, b in pairs]
    assert len(losers) == len(set(losers))
    if pairing == "first_round":
        used = [i for pair in pairs for i in pair]
        assert len(used) == len(set(used))
    if len(set(rewards)) == len(rewards):
        most = len(rewards) // 2 if pairing == "first_round" else len(rewards) - 1
        assert len(pairs) == most


def test_equal_texts_are_no_pair():
    twice = row(1, replies=("3", "3", "3", "3"))
    told = config("rso", keep=3)
    assert rso.sample_pairs(twice, told)[0] == []


@pytest.mark.parametrize(("loss", "first"), [("sigmoid", math.log(2)), ("hinge", 1.0)])
@pytest.mark.parametrize("pairing", ["first_round", "tournament"])
def test_rso_makes_better_replies_likelier(base, tmp_path, loss, first, pairing):
    settings = {"keep": 3, "loss": loss, "pairing": pairing, "lr": 1e-2, "steps": 20}
    told = LEARNERS["rso"](base, RANKS, config("rso", **settings), tmp_path)
    assert told["first"]["preference"] == pytest.approx(first, abs=1e-4)
    assert told["rows"] == 8
    assert told["pairs"] >= (16 if pairing == "tournament" else 8)
    assert told["accepted_reward"] > told["pool_reward"]
    h = learnt(base, tmp_path, RANKS)
    assert (h[:, 0] > h[:, -1]).all()


def test_what_a_row_gives_does_not_depend_on_the_others():
    told = config("rso", keep=2)
    alone = [rso.sample_pairs(one, told) for one in RANKS]
    assert [rso.sample_pairs(one, told) for one in reversed(RANKS)] == alone[::-1]
    moved = config("rso", keep=2, seed=1)
    assert [rso.sample_pairs(one, moved) for one in RANKS] != alone


def test_rso_that_would_reject_nothing_is_refused(base, tmp_path):
    with pytest.raises(BadInput, match=r"learn\.keep: 4, but rows have 4 replies at most"):
        LEARNERS["rso"](base, RANKS, config("rso", keep=4), tmp_path)
    level = [row(n, rewards=(1.0,) * 4) for n in range(2)]
    with pytest.raises(BadInput, match="all of whose pairs tie"):
        LEARNERS["rso"](base, level, config("rso", keep=2), tmp_path)


# STaR.


def test_star_takes_more_steps_every_iteration(base, tmp_path):
    told = config("star", steps=10)
    assert [told.steps_in(i) for i in (1, 2, 3, 4)] == [10, 12, 14, 17]
    later = [one.model_copy(update={"iteration": 2}) for one in GOLD]
    assert LEARNERS["star"](base, later, told, tmp_path)["steps"] == 12
    assert type(told).from_base
    assert not type(config("sft")).from_base


def test_star_is_sft_in_its_first_iteration(base, tmp_path):
    first = [one.model_copy(update={"iteration": 1}) for one in GOLD]
    for method in ("star", "sft"):
        LEARNERS[method](base, first, config(method, steps=3), tmp_path / method)
    ours, theirs = ((tmp_path / name / "model.safetensors") for name in ("star", "sft"))
    assert ours.read_bytes() == theirs.read_bytes()


# SPIN.


def short(method="spin", **more) -> Any:
    return config(method, max_tokens=8, **more)


@pytest.fixture(scope="module")
def speaker(base, tmp_path_factory):
    """A base that has learnt to end its answers."""
    out = tmp_path_factory.mktemp("speaker")
    LEARNERS["sft"](base, GOLD, config("sft", steps=20, lr=1e-2), out)
    return out


def test_spin_prefers_gold_answers_to_its_own(speaker, tmp_path):
    told = LEARNERS["spin"](speaker, MORE, short(steps=30, lr=1e-3), tmp_path)
    assert told["first"]["preference"] == pytest.approx(math.log(2), abs=1e-4)
    assert told["first"]["accuracy"] == 0
    assert told["pairs"] + told["equal"] + told["cut"] == told["rows"] == 32
    assert told["last"]["preference"] < told["first"]["preference"]
    h = learnt(speaker, tmp_path, spin.oppose(speaker, MORE, short()).pairs)
    assert (h[:, 0] > h[:, 1]).float().mean() > 0.9


def test_own_answers_follow_from_row_and_seed(speaker):
    there = spin.oppose(speaker, GOLD, short())
    back = spin.oppose(speaker, GOLD[::-1], short())
    assert back.pairs == there.pairs[::-1]
    assert spin.oppose(speaker, GOLD, short(seed=1)).pairs != there.pairs
    for pair in there.pairs:
        assert pair.kind == "pref"
        assert pair.replies[0] != pair.replies[1]


def test_spin_has_nothing_to_learn_from_its_own_words(speaker, tmp_path):
    frozen = short(temperature=1e-4)  # always the same reply
    said = {pair.prompt: pair.replies[1] for pair in spin.oppose(speaker, GOLD, frozen).pairs}
    gold = [
        one.model_copy(update={"replies": (said[one.prompt],)})
        for one in GOLD
        if one.prompt in said
    ]
    assert gold
    with pytest.raises(BadInput, match=rf"sft rows: {len(gold)}, .* wrote {len(gold)} just so"):
        LEARNERS["spin"](speaker, gold, frozen, tmp_path)


def test_a_sample_that_never_ends_is_left_out(base):
    found = spin.oppose(base, GOLD, config("spin", max_tokens=1))
    assert found.cut == 8 - len(found.pairs) - found.equal > 0


def test_spin_says_how_much_room_there_is(base):
    with pytest.raises(BadInput, match=r"learn\.max_tokens: 64, but .* room for 58"):
        spin.oppose(base, GOLD, config("spin"))


# Self-rewarding.


def test_best_against_worst_and_ties_dropped():
    best = self_rewarding.extremes(RANKS[1])
    assert best is not None
    assert (best.replies, best.rewards) == (("2", "none"), (1.0, -1.0))
    assert self_rewarding.extremes(row(1, rewards=(2.0,) * 4)) is None


def test_self_rewarding_learns_beside_its_seed(base, tmp_path):
    level = row(9, rewards=(2.0,) * 4)
    told = LEARNERS["self_rewarding"](
        base, [*RANKS, level, *GOLD], config("self_rewarding", steps=20, lr=1e-2), tmp_path
    )
    assert told["first"]["preference"] == pytest.approx(math.log(2), abs=1e-4)
    assert (told["rows"], told["pairs"], told["ties"]) == (17, 8, 1)
    assert told["reward_gap"] == pytest.approx(2.0)
    assert told["last"]["sft"] < told["first"]["sft"]
    h = learnt(base, tmp_path, RANKS)
    assert (h[:, 0] > h[:, -1]).all()


def test_rewards_of_somebody_else_are_refused(base, tmp_path):
    with pytest.raises(BadInput, match="source 'human'"):
        LEARNERS["self_rewarding"](
            base, [row(1, source="human")], config("self_rewarding"), tmp_path
        )
    with pytest.raises(BadInput, match="in none of which rewards differ"):
        LEARNERS["self_rewarding"](
            base, [row(1, rewards=(1.0,) * 4)], config("self_rewarding"), tmp_path
        )
