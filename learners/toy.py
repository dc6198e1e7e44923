"""Policies over K replies whose best is known, to see what each preference loss converges to.

    pi* = pi_ref exp(r / beta) / Z       the optimum of E_pi[r] - beta KL(pi || pi_ref)

Everything is exact: sums over all replies and pairs instead of samples. Labels follow Bradley and
Terry, P(i better than j) = sig(r_i - r_j), unless a table of them is given; pairs are drawn from
the reference, twice.

    loss       where a policy that can be anything ends
    ppo        pi*
    dpo        pi*                                      Rafailov et al. 2023, arXiv 2305.18290
    rdpo       pi*, from labels flipped as often as eps says
    cdpo       sig(beta D_ij) = (1 - eps) P_ij + eps P_ji, where pairs allow it
    exo_pref   pi*, when each pair's eps is its P_ji    Ji et al. 2024, arXiv 2402.00856
    exo_rw     pi* with beta = beta_pi beta_r
    dpo_rw     the same: only a policy that cannot be pi* tells them apart
    ipo        pi_ref exp(p / tau) / Z, p_i = P(i better than a reply of the reference)
               Azar et al. 2023, arXiv 2310.12036
    kto        nothing of that form: replies that lose more often than they win go to 0

D_ij = h_i - h_j with h = log pi - log pi_ref. A class that is too small for pi* is `Unimodal`: a
Gaussian over replies in a row. There `exo_rw` is KL(pi || pi*), which seeks a mode, and `dpo_rw`
KL(pi* || pi) plus a constant, which covers them all and matches the mean and variance of pi*.

Axes: K replies; K_K pairs, the better first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from superalign.store.errors import BadInput

from . import losses

EVERYWHERE = torch.tensor(1e-3, dtype=torch.float64)

STEPS = 300
"""The most that a fit takes; it seldom takes 30."""

RATE = 0.05
"""Of Adam."""


class Task(NamedTuple):
    """What is to be learnt, in float64."""

    ref_K: Tensor
    """log pi_ref."""
    rewards_K: Tensor
    beta: float
    """Strength of the pull to the reference; tau of IPO."""
    better_K_K: Tensor
    """P(row is called better than column)."""

    @property
    def pairs_K_K(self) -> Tensor:
        """How often a pair is drawn: two replies of the reference, perhaps of one text."""
        return self.ref_K.exp().outer(self.ref_K.exp())


def task(
    ref: Tensor, rewards: Tensor, beta: float, better: Tensor | None = None, flips: float = 0.0
) -> Task:
    """Probabilities and rewards of K replies; labels are flipped with probability `flips`."""
    ref, rewards = ref.double(), rewards.double()
    if ref.shape != rewards.shape or ref.dim() != 1 or (ref <= 0).any():
        raise BadInput(f"ref {list(ref.shape)}: give as many probabilities above 0 as rewards")
    if better is None:
        better = torch.sigmoid(rewards[:, None] - rewards)
    better = better.double() * (1 - flips) + better.double().T * flips
    return Task((ref / ref.sum()).log(), rewards, beta, better)


def optimum(ref_K: Tensor, values_K: Tensor, beta: float) -> Tensor:
    """log of pi_ref exp(values / beta) / Z."""
    return F.log_softmax(ref_K + values_K / beta, -1)


def preferred(task: Task) -> Tensor:
    """p_i = P(i is called better than a reply of the reference): IPO ends at `optimum` of it."""
    return task.better_K_K @ task.ref_K.exp()


def kl(p_K: Tensor, q_K: Tensor) -> float:
    """KL(p || q) of log-probabilities."""
    return float((p_K.exp() * (p_K - q_K)).sum())


Objective = Callable[[Task, Tensor], Tensor]
"""Of log pi over K replies: what is minimised."""


def ppo(task: Task, logp_K: Tensor) -> Tensor:
    """-E_pi[r] + beta KL(pi || pi_ref), whose gradient is exact here."""
    h_K = logp_K - task.ref_K
    return (logp_K.exp() * (task.beta * h_K - task.rewards_K)).sum()


def _pairwise(loss: Callable[[Tensor, Task], Tensor]) -> Objective:
    """Mean of a pair's loss, which is given D, over pairs and their labels."""

    def objective(task: Task, logp_K: Tensor) -> Tensor:
        h_K = logp_K - task.ref_K
        losses_K_K = loss(h_K[:, None] - h_K, task)
        return (task.pairs_K_K * task.better_K_K * losses_K_K).sum()

    return objective


dpo = _pairwise(lambda d, task: losses.dpo(task.beta * d))
ipo = _pairwise(lambda d, task: losses.ipo(d, task.beta))


def cdpo(eps: float) -> Objective:
    return _pairwise(lambda d, task: losses.cdpo(task.beta * d, eps))


def rdpo(eps: float) -> Objective:
    return _pairwise(lambda d, task: losses.rdpo(task.beta * d, eps))


def exo_pref(eps: float | None = None) -> Objective:
    """`eps` as given for every label; by default each pair is one example, its eps P_ji."""
    if eps is not None:
        return _pairwise(lambda d, task: losses.exo_pref(task.beta * d, eps))

    def objective(task: Task, logp_K: Tensor) -> Tensor:
        h_K = logp_K - task.ref_K
        z_K_K = task.beta * (h_K[:, None] - h_K)
        return (task.pairs_K_K * losses.exo_pref(z_K_K, task.better_K_K.T)).sum()

    return objective


def exo_rw(task: Task, logp_K: Tensor) -> Tensor:
    """All replies as one example's candidates, beta_pi = 1 and beta_r = beta.

    Candidates come from the reference, so that reply i stands there pi_ref(i) times: its logarithm
    is added to both logits, which makes q = pi and p = pi*.
    """
    h_K, rewards_K = logp_K - task.ref_K, task.rewards_K
    return losses.exo_rw(h_K + task.ref_K, rewards_K + task.beta * task.ref_K, 1.0, task.beta)


def dpo_rw(task: Task, logp_K: Tensor) -> Tensor:
    """The forward direction of `exo_rw`."""
    h_K, rewards_K = logp_K - task.ref_K, task.rewards_K
    return losses.dpo_rw(h_K + task.ref_K, rewards_K + task.beta * task.ref_K, 1.0, task.beta)


def kto(task: Task, logp_K: Tensor) -> Tensor:
    """A reply counts as desirable as often as it is called better; z0 is KL(pi || pi_ref)."""
    h_K, desirable_K = logp_K - task.ref_K, preferred(task)
    z0 = (logp_K.exp() * h_K).sum().detach()
    yes = torch.ones_like(h_K, dtype=torch.bool)
    wanted_K, unwanted_K = (losses.kto(h_K, z0, which, task.beta) for which in (yes, ~yes))
    return (task.ref_K.exp() * (desirable_K * wanted_K + (1 - desirable_K) * unwanted_K)).sum()


OBJECTIVES: dict[str, Objective] = {
    "ppo": ppo,
    "dpo": dpo,
    "exo_rw": exo_rw,
    "dpo_rw": dpo_rw,
    "exo_pref": exo_pref(),
    "ipo": ipo,
    "kto": kto,
}


class Tabular:
    """A policy that can be anything, and starts as the reference."""

    def __init__(self, task: Task) -> None:
        self.parameters = [task.ref_K.clone().requires_grad_()]

    def logp_K(self) -> Tensor:
        return F.log_softmax(self.parameters[0], -1)


class Unimodal:
    """log pi = -(x - mean)^2 / (2 sd^2) - log Z over replies at places x."""

    def __init__(self, places_K: Tensor, mean: float, sd: float) -> None:
        self.places_K = places_K.double()
        start = torch.tensor([mean, sd], dtype=torch.float64)
        start[1] = start[1].log()
        self.parameters = [start.requires_grad_()]

    def logp_K(self) -> Tensor:
        mean, log_sd = self.parameters[0]
        return F.log_softmax(-((self.places_K - mean) ** 2) / (2 * (2 * log_sd).exp()), -1)


def bimodal() -> tuple[Task, Tensor]:
    """A uniform reference over 61 places on [-6, 6], and pi*: 0.6 around -2 and 0.4 around 2.

    A little everywhere keeps log pi* above -10, where `exo_rw` cuts it off.
    """
    places_K = torch.linspace(-6, 6, 61, dtype=torch.float64)
    modes = ((0.6, -2.0), (0.4, 2.0))
    star_K = sum((w * (-(((places_K - at) / 0.6) ** 2) / 2).exp() for w, at in modes), EVERYWHERE)
    return task(torch.full_like(places_K, 1 / 61), star_K.log(), 1.0), places_K


def fit(task: Task, policy: Tabular | Unimodal, objective: Objective) -> float:
    """Move the policy to a minimum by L-BFGS with exact gradients; what is reached there."""
    optimizer = torch.optim.LBFGS(
        policy.parameters,
        max_iter=STEPS,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-12,
        tolerance_change=1e-15,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(task, policy.logp_K())
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return objective(task, policy.logp_K()).item()


def descend(task: Task, policy: Tabular | Unimodal, objective: Objective, steps: int) -> None:
    """So many steps of Adam, where there is no minimum, or no function: `kto` holds z0 still in
    every step."""
    optimizer = torch.optim.Adam(policy.parameters, lr=RATE)
    for _ in range(steps):
        loss = objective(task, policy.logp_K())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def best_of(task: Task, policies: Sequence[Tabular | Unimodal], objective: Objective) -> Tensor:
    """log pi of the policy that ends lowest: each starts elsewhere."""
    ends = [fit(task, policy, objective) for policy in policies]
    return policies[ends.index(min(ends))].logp_K().detach()
