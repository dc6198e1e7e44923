"""Losses of preference learning: pure functions of tensors, one value per example.

Notation, after DESIGN section 6: h(y) = log pi(y|x) - log pi_ref(y|x), summed over the tokens of
the reply with its end token; D = h(better) - h(worse); z = beta * D; sig(z) = 1 / (1 + exp(-z)).
`eps` is the believed probability that a label is flipped: one number, or one per example.

Axes: B examples, K replies of one example. Known answers to every function: tests/test_losses.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS_FLOOR = 1e-3
"""Where EXO takes log(eps): the paper's own label noise, and the least that is believed of one."""

LOG_P_FLOOR = -10.0
"""The least log-probability that EXO's reward target gives a reply, as in the paper's code."""


def dpo(z: Tensor) -> Tensor:
    """-log sig(z). Rafailov et al. 2023, arXiv 2305.18290, Eq. 7."""
    return -F.logsigmoid(z)


def dpo_rw(h_BK: Tensor, rewards_BK: Tensor, beta_pi: float, beta_r: float) -> Tensor:
    """-sum_i p_i log q_i, p = softmax(r / beta_r), q = softmax(beta_pi * h).

    The forward direction of `exo_rw`, as DPO-rw in Ji et al. 2024.
    """
    p_BK = F.softmax(rewards_BK / beta_r, dim=-1)
    return -(p_BK * F.log_softmax(beta_pi * h_BK, dim=-1)).sum(-1)


def exo_pref(z: Tensor, eps: float | Tensor) -> Tensor:
    """KL(q || p), q = (sig(z), sig(-z)), p = (1 - eps, eps).

    Ji et al. 2024, arXiv 2402.00856, Eq. 16 (EXO-pref). Its gradient is
    q (1 - q) (z - logit(1 - eps)): zero at z = logit(1 - eps), and vanishing for pairs that are
    ranked very wrongly. `eps` is kept within [1e-3, 1 - 1e-3].
    """
    eps = _flip_probability(eps, z).clamp(EPS_FLOOR, 1 - EPS_FLOOR)
    better = torch.sigmoid(z) * (F.logsigmoid(z) - torch.log1p(-eps))
    worse = torch.sigmoid(-z) * (F.logsigmoid(-z) - torch.log(eps))
    return better + worse


def exo_rw(h_BK: Tensor, rewards_BK: Tensor, beta_pi: float, beta_r: float) -> Tensor:
    """sum_i q_i (log q_i - log p_i), p = softmax(r / beta_r), q = softmax(beta_pi * h).

    Ji et al. 2024, arXiv 2402.00856 (EXO-rw), with log p kept above -10 as in the paper's code:
    rewards far apart under a small beta_r would else give p = 0 and unbounded gradients.
    """
    log_p_BK = F.log_softmax(rewards_BK / beta_r, dim=-1).clamp(min=LOG_P_FLOOR)
    log_q_BK = F.log_softmax(beta_pi * h_BK, dim=-1)
    return (log_q_BK.exp() * (log_q_BK - log_p_BK)).sum(-1)


def cdpo(z: Tensor, eps: float | Tensor) -> Tensor:
    """-(1 - eps) log sig(z) - eps log sig(-z): DPO with smoothed labels. Mitchell 2023, a note."""
    eps = _flip_probability(eps, z)
    return (1 - eps) * dpo(z) + eps * dpo(-z)


def rdpo(z: Tensor, eps: float | Tensor) -> Tensor:
    """[(1 - eps) dpo(z) - eps dpo(-z)] / (1 - 2 eps). Chowdhury et al. 2024, arXiv 2403.00409.

    Its expectation over flips of probability eps is the DPO loss of the clean label. It has no
    lower bound in z, so stop early or cap the KL.
    """
    eps = _flip_probability(eps, z)
    if (eps >= 0.5).any():
        raise ValueError(
            f"rdpo: eps is {eps.max().item():g}, but a label that is flipped half the time or more "
            "says nothing; drop such pairs or use exo_pref or cdpo"
        )
    return ((1 - eps) * dpo(z) - eps * dpo(-z)) / (1 - 2 * eps)


def ipo(delta: Tensor, tau: float) -> Tensor:
    """(D - 1 / (2 tau))^2. Azar et al. 2023, arXiv 2310.12036, Eq. 17.

    D may be of sums or of per-token means; tau tuned for one is wrong for the other.
    """
    return (delta - 1 / (2 * tau)) ** 2


def hinge(z: Tensor) -> Tensor:
    """max(0, 1 - z). SLiC, Zhao et al. 2023, arXiv 2305.10425; hinge-norm of RSO."""
    return F.relu(1 - z)


def kto(h: Tensor, z0: Tensor | float, desirable: Tensor, beta: float) -> Tensor:
    """1 - sig(beta (h - z0)) where desirable, else 1 - sig(beta (z0 - h)). Ethayarajh et al. 2024.

    arXiv 2402.01306, with both weights 1. z0 is the batch's estimate of the KL to the reference,
    detached and at least 0.
    """
    return torch.sigmoid(beta * torch.where(desirable, z0 - h, h - z0))


def pro(scores_BK: Tensor, rewards_BK: Tensor) -> Tensor:
    """Ranking loss over K replies of one prompt. Song et al. 2023, arXiv 2306.17492.

    sum over k of logsumexp(s_k t_kk, s_i t_ki for all i with r_i < r_k) - s_k t_kk, where
    t_ki = r_k - r_i, t_kk = max_i t_ki and s is the mean log-probability of a reply's tokens.
    Replies with equal rewards are not set against each other.
    """
    gaps_BKK = rewards_BK[..., :, None] - rewards_BK[..., None, :]
    own_BK = scores_BK * gaps_BKK.amax(-1)
    others_BKK = (scores_BK[..., None, :] * gaps_BKK).masked_fill(gaps_BKK <= 0, -torch.inf)
    all_BKK = torch.cat([own_BK[..., None], others_BKK], -1)
    return (all_BKK.logsumexp(-1) - own_BK).sum(-1)


def _flip_probability(eps: float | Tensor, like: Tensor) -> Tensor:
    eps = torch.as_tensor(eps, dtype=like.dtype, device=like.device)
    if not ((eps >= 0) & (eps <= 1)).all():
        raise ValueError(f"eps is {eps.tolist()}; a flip probability lies between 0 and 1")
    return eps
