"""Losses against the values that follow from their formulas by hand."""

import math

import pytest
import torch

from superalign.learners import losses

Z = (-5, -1, 0, 1, 5, 10)
KNOWN = {
    "dpo": (losses.dpo, (5.006715, 1.313262, 0.693147, 0.313262, 0.006715, 0.000045)),
    "exo": (
        lambda z: losses.exo_pref(z, 1e-3),
        (6.821350, 4.468040, 2.761231, 1.276310, 0.007047, 0.000815),
    ),
    "cdpo": (
        lambda z: losses.cdpo(z, 0.1),
        (4.506715, 1.213262, 0.693147, 0.413262, 0.506715, 1.000045),
    ),
    "rdpo": (
        lambda z: losses.rdpo(z, 0.1),
        (5.631715, 1.438262, 0.693147, 0.188262, -0.618285, -1.249955),
    ),
    "hinge": (losses.hinge, (6, 2, 1, 0, 0, 0)),
}
EXO_GRADIENTS = (-0.079157, -1.554562, -1.726689, -1.161338, -0.012676, 0.000140)
EXO_OFFICIAL = (9.892892, 6.728383, 4.306853, 2.107211, 0.026749, -0.000045)


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def near(got, wanted):
    torch.testing.assert_close(got, f64(wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", KNOWN)
def test_pair_losses_have_their_known_values(name):
    loss, wanted = KNOWN[name]
    near(loss(f64(Z)), wanted)


def test_exo_has_its_known_gradients():
    z = f64(Z).requires_grad_()
    losses.exo_pref(z, 1e-3).sum().backward()
    near(z.grad, EXO_GRADIENTS)


def test_exo_rw_with_far_rewards_is_the_papers_code():
    # the paper's code writes log p = (0, -10), which is not quite normalised; ours is
    z = f64(Z)
    h_BK = torch.stack([z, torch.zeros_like(z)], -1)
    ours = losses.exo_rw(h_BK, f64([[1.0, 0.0]] * len(Z)), beta_pi=1.0, beta_r=0.1)
    near(ours - torch.sigmoid(z) * math.log1p(math.exp(-10)), EXO_OFFICIAL)


def test_ranked_losses_have_their_known_values():
    h, r = f64([[1, 0.5, -0.5, 0]]), f64([[2, 1, 0, -1]])
    near(losses.exo_rw(h, r, beta_pi=0.5, beta_r=0.5), [1.276542])
    near(losses.dpo_rw(h, r, beta_pi=0.5, beta_r=0.5), [1.092235])
    scores, rewards = f64([[-0.5, -0.8, -1.2], [-1.2, -0.5, -0.8]]), f64([[2, 1, 0.5], [0.5, 2, 1]])
    near(losses.pro(scores, rewards), [1.431555, 1.431555])  # in any order
    near(losses.pro(f64([-0.8, -1.2]), f64([1, 0.5])), 0.598139)


def test_ipo_and_kto_have_their_known_values():
    near(losses.ipo(f64([0, 2, 5, 10]), tau=0.1), [25, 9, 0, 25])
    h, desirable = f64([10, -10, 10, -10]), torch.tensor([True, True, False, False])
    wanted = [0.310026, 0.768525, 0.689974, 0.231475]
    near(losses.kto(h, 2.0, desirable, beta=0.1), wanted)
    near(losses.kto(h, f64(2.0), desirable, beta=0.1), wanted)


def test_pairs_are_rankings_of_two():
    z = f64([-3, 0.5, 4])
    h_BK, r_BK = torch.stack([z, torch.zeros_like(z)], -1), f64([[math.log(9), 0]] * 3)
    near(losses.exo_rw(h_BK, r_BK, 1.0, 1.0), losses.exo_pref(z, 0.1).tolist())
    near(losses.dpo_rw(h_BK, r_BK, 1.0, 1.0), losses.cdpo(z, 0.1).tolist())


@pytest.mark.parametrize("loss", [losses.exo_pref, losses.cdpo, losses.rdpo])
def test_every_example_may_have_its_own_eps(loss):
    z, eps = f64([-1, 0, 2]), (0.02, 0.1, 0.4)
    near(loss(z, f64(eps)), [loss(z[i], e).item() for i, e in enumerate(eps)])


def test_rdpo_is_dpo_in_expectation_over_flips():
    z, eps = f64([-2, 0, 3]), 0.2
    near((1 - eps) * losses.rdpo(z, eps) + eps * losses.rdpo(-z, eps), losses.dpo(z).tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_and_gradients_stay_finite_far_out(dtype):
    for loss in [loss for loss, _ in KNOWN.values()]:
        z = torch.tensor([-1e4, -100.0, 100.0, 1e4], dtype=dtype, requires_grad=True)
        value = loss(z)
        value.sum().backward()
        assert value.isfinite().all()
        assert z.grad is not None and z.grad.isfinite().all()
    h = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    value = losses.exo_rw(h, h.detach(), 1.0, 1e-3)
    value.sum().backward()
    assert value.isfinite().all()
    assert h.grad is not None and h.grad.isfinite().all()


def test_exo_floors_eps_where_it_takes_the_logarithm():
    z = f64(Z)
    near(losses.exo_pref(z, 0.0), losses.exo_pref(z, 1e-3).tolist())
    near(losses.exo_pref(z, f64([1.0] * 6)), losses.exo_pref(-z, 1e-3).tolist())


def test_a_useless_or_impossible_eps_is_refused():
    with pytest.raises(ValueError, match=r"rdpo: eps is 0\.5.*drop such pairs"):
        losses.rdpo(f64([1, 2]), f64([0.1, 0.5]))
    with pytest.raises(ValueError, match=r"eps is -0\.1"):
        losses.exo_pref(f64([1]), -0.1)


def test_replies_that_tie_are_not_set_against_each_other():
    tied = f64([-1, -2, -3]).requires_grad_()
    got = losses.pro(tied, f64([1, 1, 0]))
    alone = [losses.pro(f64([s, -3]), f64([1, 0])).item() for s in (-1, -2)]
    near(got.detach(), sum(alone))
    got.backward()
    assert tied.grad is not None and tied.grad.isfinite().all()
    near(losses.pro(f64([-1, -2]), f64([1, 1])), 0)
