"""Every loss converges to what its theory says, on policies whose best is known."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from superalign.learners import losses, toy
from superalign.store import BadInput


def drawn(seed=0, beta=0.5, flips=0.0):
    rng = torch.Generator().manual_seed(seed)
    ref_K, rewards_K = torch.randn(2, 5, generator=rng, dtype=torch.float64)
    return toy.task(ref_K.softmax(-1), rewards_K, beta, flips=flips)


def fitted(task, objective):
    policy = toy.Tabular(task)
    toy.fit(task, policy, objective)
    return policy.logp_K().detach()


def descended(task, objective, steps):
    policy = toy.Tabular(task)
    toy.descend(task, policy, objective, steps)
    return policy.logp_K().detach()


def star(task):
    return toy.optimum(task.ref_K, task.rewards_K, task.beta)


def test_the_optimum_has_its_known_value():
    # weights 1/2 e^(2 ln 2) = 2, 1/4 e^0, 1/4 e^(2 ln 3) = 9/4
    task = toy.task(
        torch.tensor([0.5, 0.25, 0.25]), torch.tensor([math.log(2), 0, math.log(3)]), 0.5
    )
    assert star(task).exp().tolist() == pytest.approx([2 / 4.5, 0.25 / 4.5, 2.25 / 4.5])


@given(st.floats(-5, 5), st.integers(0, 9))
def test_no_policy_earns_more_than_the_optimum_and_constants_do_not_matter(shift, seed):
    task = drawn(seed)
    moved = toy.optimum(task.ref_K, task.rewards_K + shift, task.beta)
    assert toy.kl(moved, star(task)) == pytest.approx(0, abs=1e-9)
    # its objective is -beta log Z, and any other policy's is higher by beta KL(pi || pi*)
    log_z = (task.ref_K + task.rewards_K / task.beta).logsumexp(0)
    assert float(toy.ppo(task, star(task))) == pytest.approx(float(-task.beta * log_z))
    other = torch.randn(5, generator=torch.Generator().manual_seed(seed + 100)).double()
    other = other.log_softmax(-1)
    more = float(toy.ppo(task, other) - toy.ppo(task, star(task)))
    assert more == pytest.approx(task.beta * toy.kl(other, star(task)))


@pytest.mark.parametrize("name", ["ppo", "dpo", "exo_rw", "dpo_rw", "exo_pref"])
@given(seed=st.integers(0, 99), beta=st.floats(0.3, 3))
@settings(max_examples=10)
def test_these_end_at_the_optimum_when_nothing_is_in_the_way(name, seed, beta):
    task = drawn(seed, beta)
    assert toy.kl(task.ref_K, star(task)) > 1e-3  # there is something to learn
    assume(name != "exo_rw" or star(task).min() > losses.LOG_P_FLOOR)  # where it is cut off
    assert toy.kl(fitted(task, toy.OBJECTIVES[name]), star(task)) < 1e-6


def test_exo_rw_cannot_see_how_unlikely_a_reply_is_below_its_floor():
    task = drawn(81, 0.375)
    least = int(star(task).argmin())
    assert star(task)[least] < losses.LOG_P_FLOOR
    assert float(fitted(task, toy.exo_rw)[least]) == pytest.approx(losses.LOG_P_FLOOR, abs=0.01)


def test_ipo_ends_at_its_own_optimum():
    task = drawn()
    found = fitted(task, toy.ipo)
    own = toy.optimum(task.ref_K, toy.preferred(task), task.beta)
    assert toy.kl(found, own) < 1e-6 < 0.01 < toy.kl(found, star(task))


def test_rdpo_undoes_flips_that_the_others_believe():
    task = drawn(flips=0.2)
    unbiased = toy.kl(fitted(task, toy.rdpo(0.2)), star(task))
    fooled = toy.kl(fitted(task, toy.dpo), star(task))
    cautious = toy.kl(fitted(task, toy.cdpo(0.2)), star(task))
    assert unbiased < 1e-6 and 0.01 < fooled < cautious


def two(better, beta=0.1):
    better_2_2 = torch.tensor([[0.5, better], [1 - better, 0.5]])
    return toy.task(torch.ones(2), torch.zeros(2), beta, better_2_2)


def gap(logp_K):
    return (logp_K[0] - logp_K[1]).item()


@pytest.mark.parametrize("tau", [0.1, 0.5, 2.0])
def test_ipo_stops_at_its_gap_when_the_better_always_wins(tau):
    assert gap(fitted(two(1.0, tau), toy.ipo)) == pytest.approx(1 / (2 * tau), rel=1e-4)


def test_dpo_drives_a_certain_loser_to_nothing_whatever_beta_is():
    for beta in (0.1, 1.0):
        task = two(1.0, beta)
        short, long = (gap(descended(task, toy.dpo, steps)) for steps in (100, 600))
        assert 0 < short < long - 1


def test_of_three_replies_in_a_row_ipo_leaves_two_thirds_of_the_gap():
    """Pairs of one reply with itself tie, and the far pair's gap is twice that of the near ones."""
    better = torch.ones(3, 3).triu(1) + 0.5 * torch.eye(3)
    task = toy.task(torch.ones(3), torch.zeros(3), 0.1, better)
    logp_K = fitted(task, toy.ipo)
    assert logp_K.diff().tolist() == pytest.approx([-10 / 3, -10 / 3], rel=1e-3)
    losing = [descended(task, toy.dpo, steps)[-1].exp().item() for steps in (100, 600)]
    assert losing[1] < 1e-9 and losing[1] < losing[0] / 1e3


@pytest.mark.parametrize(("objective", "eps"), [(toy.cdpo(0.1), 0.1), (toy.exo_pref(0.1), 0.1)])
def test_smoothed_labels_stop_at_their_logit(objective, eps):
    assert gap(fitted(two(1.0, 1.0), objective)) == pytest.approx(
        math.log((1 - eps) / eps), rel=1e-4
    )


def test_cdpo_smooths_labels_that_are_flipped_already_once_more():
    # what is seen of a certain pair is 0.9, and cdpo makes 0.9^2 + 0.1^2 = 0.82 of it
    task = toy.task(torch.ones(2), torch.zeros(2), 1.0, torch.tensor([[0.5, 1], [0, 0.5]]), 0.1)
    assert gap(fitted(task, toy.cdpo(0.1))) == pytest.approx(math.log(0.82 / 0.18), rel=1e-4)
    assert gap(fitted(task, toy.dpo)) == pytest.approx(math.log(9), rel=1e-4)


def test_kto_empties_replies_that_lose_more_often_than_they_win():
    task = drawn(3)
    found, wins = descended(task, toy.kto, 2000).exp(), toy.preferred(task) > 0.5
    assert 0 < int(wins.sum()) < 5
    assert float(found[~wins].max()) < 1e-3 < float(found[wins].min())


def lying(name):
    """KL both ways, mean and deviation of the best Gaussian for a loss."""
    task, places_K = toy.bimodal()
    starts = [toy.Unimodal(places_K, mean, sd) for mean, sd in ((-2, 1), (2, 1), (0, 3))]
    logp_K = toy.best_of(task, starts, toy.OBJECTIVES[name])
    mean = float(logp_K.exp() @ places_K)
    sd = float((logp_K.exp() @ (places_K - mean) ** 2).sqrt())
    return toy.kl(logp_K, star(task)), toy.kl(star(task), logp_K), mean, sd


def test_exo_takes_one_mode_and_dpo_both():
    exo, forward, dpo = lying("exo_rw"), lying("dpo_rw"), lying("dpo")
    task, places_K = toy.bimodal()
    target = star(task).exp()
    mean = float(target @ places_K)
    spread = float((target @ (places_K - mean) ** 2).sqrt())
    # the heavier mode alone costs -log 0.6, which no policy on one side can beat by much
    assert exo[2:] == pytest.approx((-2, 0.6), abs=0.02)
    assert exo[0] == pytest.approx(-math.log(0.6), abs=0.01)
    # a Gaussian of most likelihood has the mean and the deviation of the data
    assert forward[2:] == pytest.approx((mean, spread), abs=1e-3)
    assert abs(dpo[2]) < 0.5 and dpo[3] > 1.8
    assert exo[0] < min(forward[0], dpo[0]) and forward[1] < min(exo[1], dpo[1])


def test_ppo_is_the_same_direction_as_exo_with_rewards():
    """Both are KL(pi || pi*) but for a factor and a constant: gradients too."""
    task, places_K = toy.bimodal()
    slopes = []
    for objective in (toy.ppo, toy.exo_rw):
        policy = toy.Unimodal(places_K, 0.3, 1.5)
        objective(task, policy.logp_K()).backward()
        slopes.append(policy.parameters[0].grad)
    assert slopes[0] is not None and slopes[1] is not None
    torch.testing.assert_close(slopes[0], slopes[1])


def test_a_reference_without_support_is_refused():
    with pytest.raises(BadInput, match="above 0"):
        toy.task(torch.tensor([1.0, 0.0]), torch.zeros(2), 1.0)
