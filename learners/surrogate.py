"""PPO's arithmetic: pure functions of tensors. Schulman et al. 2017, arXiv 1707.06347.

Over replies side by side, padded on the right; what stands on padding is 0.

    R_t = -kl * (log pi_old(a_t) - log pi_ref(a_t)) + 1[t = end] * r
    delta_t = R_t + gamma * V_{t+1} - V_t;  A_t = delta_t + gamma * lam * A_{t+1};  returns = A + V
    L_pi = max(-A * ratio, -A * clip(ratio, 1 - e, 1 + e)),  ratio = exp(log pi_new - log pi_old)
    L_V = 0.5 * max((V - returns)^2, (clip(V, V_old - e_v, V_old + e_v) - returns)^2)

Axes: B replies, T tokens of a reply, M tokens. Known answers: tests/test_ppo.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


def earned(log_ratio_B_T: Tensor, mask_B_T: Tensor, rewards_B: Tensor, kl: float) -> Tensor:
    """R: each token pays for its log-ratio to the reference, the last one earns the reward."""
    rewards_B_T = -kl * log_ratio_B_T * mask_B_T
    ends_B = mask_B_T.sum(-1) - 1
    whole = ends_B >= 0  # a reply that is left out has no tokens
    rewards_B_T[whole, ends_B[whole]] += rewards_B[whole]
    return rewards_B_T


def gae(rewards_B_T: Tensor, values_B_T: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns. Generalised advantage estimation, arXiv 1506.02438.

    Padding needs no mask: rewards and values are 0 there, and so is what follows the end token.
    """
    advantages_B_T = torch.zeros_like(rewards_B_T)
    next_value_B = next_advantage_B = rewards_B_T.new_zeros(len(rewards_B_T))
    for t in reversed(range(rewards_B_T.shape[1])):
        delta_B = rewards_B_T[:, t] + gamma * next_value_B - values_B_T[:, t]
        next_advantage_B = delta_B + gamma * lam * next_advantage_B
        advantages_B_T[:, t] = next_advantage_B
        next_value_B = values_B_T[:, t]
    return advantages_B_T, advantages_B_T + values_B_T


def moments(values_B_T: Tensor, mask_B_T: Tensor) -> Tensor:
    """Count, sum and sum of squares of what is not padding: they add up over processes."""
    values_M = values_B_T[mask_B_T].double()
    return torch.stack([values_M.new_tensor(len(values_M)), values_M.sum(), (values_M**2).sum()])


def whiten(values_B_T: Tensor, mask_B_T: Tensor, moments_3: Tensor) -> Tensor:
    """Shifted and scaled to mean 0 and variance 1 over the tokens that `moments_3` are of."""
    count, total, squares = moments_3
    mean = total / count
    scale = (squares / count - mean**2).clamp(min=0).add(1e-8).rsqrt()
    return ((values_B_T - mean) * scale).to(values_B_T.dtype) * mask_B_T


def policy_loss(log_ratio_M: Tensor, advantages_M: Tensor, clip: float) -> Tensor:
    """L_pi of each token. Where pushing further is clipped, its gradient is 0."""
    ratio_M = log_ratio_M.exp()
    clipped_M = ratio_M.clamp(1 - clip, 1 + clip)
    return torch.maximum(-advantages_M * ratio_M, -advantages_M * clipped_M)


def value_loss(values_M: Tensor, old_M: Tensor, returns_M: Tensor, clip: float) -> Tensor:
    """L_V of each token."""
    near_M = old_M + (values_M - old_M).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_M - returns_M) ** 2, (near_M - returns_M) ** 2)
