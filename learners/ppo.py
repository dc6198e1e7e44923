"""PPO, proximal policy optimisation, as used in RLHF. Schulman et al. 2017, arXiv 1707.06347;
Ouyang et al. 2022, arXiv 2203.02155.

    loss = mean over reply tokens of L_pi + value * L_V
    R_t = -kl * (log pi(a_t) - log pi_ref(a_t)) + token reward + 1[t = end] * r

`surrogate.py` has L_pi, L_V and the advantages, which are whitened over the tokens of a batch;
`values.py` the value head. The reference is the policy before the update. pi is the policy when
the batch begins. With a scorer it also draws the batch, so that pi_old = pi. Without one, replies
are those of `reward` rows and pi_old is the base, which drew them: the weights of importance in
L_pi then stay right however far pi has gone, but clip ever more. Token rewards are RELC's, Cao et
al. 2024, arXiv 2401.07382. `flip_prob` is not used.

Replies of like length are read together, so that little of a forward pass is padding.

Under `accelerate launch` each process draws and reads its share of every batch.

Axes: B replies of a batch, T tokens of a reply, M reply tokens of a batch or of one pass.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from superalign.agents.model import Sampling
from superalign.agents.rollouts import draw, policy_of
from superalign.agents.tokens import decode, encode_prompt, encode_reply
from superalign.store.errors import BadInput, SuperalignError
from superalign.store.records import Row

from . import surrogate
from .config import PpoConfig
from .learner import Progress, Trainer, hands, load, processes, summed
from .reading import like_lengths
from .scoring import Scorer, after_cut, load_scorer
from .values import ActorCritic, Padded, Read, pad

START = 1e-3
"""By how many nats a token's log-probability may differ before anything was learnt: kernels give
slightly other numbers in other batch shapes."""


@dataclass(frozen=True)
class Rollout:
    """One reply, and what it earned."""

    prompt: list[int]
    reply: list[int]
    reward: float | None
    """None if nothing is to be learnt from it: unscored, or cut off."""
    ended: bool = True
    logprobs: list[float] | None = None
    """Of the tokens of a fresh reply, from the engine that drew it."""
    token_rewards: tuple[float, ...] | None = None


class Pass(NamedTuple):
    """Replies that are read together, and all that an update needs of them besides the weights."""

    padded: Padded
    old_M: Tensor
    values_M: Tensor
    advantages_M: Tensor
    returns_M: Tensor


@dataclass(frozen=True)
class Experience:
    """A batch of rollouts, as its updates need it."""

    passes: list[Pass]
    tokens: float
    """Reply tokens of all processes."""
    facts: dict[str, float]


def learn(
    base: Path,
    rows: Sequence[Row],
    config: PpoConfig,
    out: Path,
    progress: Progress | None = None,
    score: Scorer | None = None,
) -> dict[str, Any]:
    """Update the policy in `base` on replies that `score` or `config.scorer` rewards, or else on
    `reward` rows, into `out`. Only the main process writes and has something to return."""
    if score is None and config.scorer is not None:
        score = load_scorer(config.scorer)
    learner = _Ppo(base, config, progress, fresh=score is not None)
    batches = learner.fresh(rows, score) if score else learner.stored(rows)
    while len(learner.trainer.log) < config.steps:
        experience = learner.experience(next(batches))
        for _ in range(min(config.epochs, config.steps - len(learner.trainer.log))):
            learner.update(experience)
    return learner.save(rows, out)


class _Ppo:
    """The models of one update and its place among the processes."""

    def __init__(
        self, base: Path, config: PpoConfig, progress: Progress | None, fresh: bool
    ) -> None:
        state = processes()
        self.config, self.is_fresh = config, fresh
        self.rank, self.world = state.process_index, state.num_processes
        if config.batch % self.world:
            raise BadInput(f"learn.batch: {config.batch} is no multiple of {self.world} processes")
        policy, self.tokenizer = load(base, config)
        self.engine = policy_of("policy", policy, self.tokenizer)
        frozen = {id(w): w for w in policy.parameters() if not w.requires_grad}  # under an adapter
        self.reference = ActorCritic(copy.deepcopy(policy, frozen), base)
        self.actor = ActorCritic(policy, base)
        self.device = policy.device
        self.trainer = Trainer(self.actor, config, progress)  # pyright: ignore[reportArgumentType]

    # Batches of rollouts, of which each process makes its share.

    def fresh(self, rows: Sequence[Row], score: Scorer) -> Iterator[list[Rollout]]:
        """Replies that the policy writes as it now is, to the prompts of the rows."""
        prompts = list(dict.fromkeys(row.prompt for row in rows if row.kind in self.config.kinds))
        ids = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        sampling = Sampling(temperature=1.0, max_tokens=self.config.max_tokens)
        for numbers, hand in self._hands(len(prompts)):
            seeds = [(self.config.seed << 40) + number for number in numbers]
            drawn = draw(self.engine, [ids[i] for i in hand], seeds, sampling)
            texts = [decode(self.tokenizer, one.ids) for one in drawn]
            scores = score([prompts[i] for i in hand], texts)
            yield [
                self._paid(Rollout(one.prompt, one.ids, earned, logprobs=one.logprobs))
                for one, earned in zip(drawn, scores, strict=True)
            ]

    def stored(self, rows: Sequence[Row]) -> Iterator[list[Rollout]]:
        """The rows' own replies, which the base has written."""
        rollouts = [self._rollout(row) for row in rows if row.kind in self.config.kinds]
        for _, hand in self._hands(len(rollouts)):
            yield [rollouts[i] for i in hand]

    def _rollout(self, row: Row) -> Rollout:
        assert row.rewards is not None  # `reward` rows have them
        reply = list(row.token_ids or encode_reply(self.tokenizer, row.replies[0]))
        prompt = encode_prompt(self.tokenizer, row.prompt)
        where, length = f"row of {', '.join(row.turns)}", len(prompt) + len(reply)
        if length > self.engine.context:
            raise BadInput(
                f"{where}: {length} tokens, and the model has {self.engine.context} positions; "
                "leave such rows out or learn with a longer model"
            )
        if row.token_rewards is not None and len(row.token_rewards) != len(reply):
            raise BadInput(
                f"{where}: {len(row.token_rewards)} token_rewards for {len(reply)} tokens; give "
                "one for each of token_ids"
            )
        rollout = Rollout(prompt, reply, row.rewards[0], token_rewards=row.token_rewards)
        return self._paid(rollout)

    def _paid(self, rollout: Rollout) -> Rollout:
        """The same, if it was cut off, without its reward or with less of it."""
        if rollout.reply[-1] in self.engine.eos:
            return rollout
        reward = after_cut(rollout.reward, self.config.cut)
        return replace(rollout, reward=reward, ended=False)

    def _hands(self, n: int) -> Iterator[tuple[range, list[int]]]:
        """Numbers of this process's replies, of all ever dealt, and which of `n` they are to."""
        if not n:
            raise BadInput("`reward` rows: none; the learner needs some, if only their prompts")
        batch = self.config.batch
        for first, hand in zip(count(0, batch), hands(n, self.config), strict=False):
            yield range(first + self.rank, first + batch, self.world), hand

    # What a batch is worth, and what is learnt from it.

    def experience(self, rollouts: list[Rollout]) -> Experience:
        """Advantages of every token of a batch under the policy as it now is."""
        rollouts.sort(key=lambda r: -len(r.prompt) - len(r.reply))
        # every process takes part in every update, with an empty reply if it has no other
        empty = replace(rollouts[0], reply=[], token_rewards=None)
        kept = [r for r in rollouts if r.reward is not None] or [empty]
        reads = self._cut(kept)
        start, ref = self._read(self.actor, reads), self._read(self.reference, reads)
        self._check_start(kept, start.logprobs_M, ref.logprobs_M)
        batch = pad([(r.prompt, r.reply) for r in kept], self.device)
        drift_B_T, mask_B_T = batch.spread(start.logprobs_M - ref.logprobs_M), batch.mask_B_T
        rewards_B = torch.tensor([r.reward or 0.0 for r in kept], device=mask_B_T.device)
        rewards_B_T = surrogate.earned(drift_B_T, mask_B_T, rewards_B, self.config.kl)
        for row_T, rollout in zip(rewards_B_T, kept, strict=True):
            if rollout.token_rewards is not None:
                row_T[: len(rollout.reply)] += torch.tensor(rollout.token_rewards).to(row_T)
        gamma, lam = self.config.gamma, self.config.lam
        values_B_T = batch.spread(start.values_M)
        advantages_B_T, returns_B_T = surrogate.gae(rewards_B_T, values_B_T, gamma, lam)
        moments_3 = summed(surrogate.moments(advantages_B_T, mask_B_T))
        white_B_T = surrogate.whiten(advantages_B_T, mask_B_T, moments_3)
        old_M = (start if self.is_fresh else ref).logprobs_M
        told = (old_M, start.values_M, white_B_T[mask_B_T], returns_B_T[mask_B_T])
        sizes = [int(one.mask_B_T.sum()) for one in reads]
        parts = zip(*(one_M.split(sizes) for one_M in told), strict=True)
        return Experience(
            [Pass(one, *part) for one, part in zip(reads, parts, strict=True)],
            tokens=moments_3[0].item(),
            facts=self._facts(rollouts, drift_B_T, start.entropy_M),
        )

    def _cut(self, rollouts: Sequence[Rollout]) -> list[Padded]:
        """A batch in order of length, cut where a pass is full or would be padded much."""
        size, parts = self.config.micro_batch, []
        for i in range(0, len(rollouts), size):
            pairs = [(r.prompt, r.reply) for r in rollouts[i : i + size]]
            groups = like_lengths([len(prompt) + len(reply) for prompt, reply in pairs])
            parts += [[pairs[place] for place in group] for group in groups]
        return [pad(part, self.device) for part in parts]

    @torch.no_grad()
    def _read(self, model: ActorCritic, reads: Sequence[Padded]) -> Read:
        """What a model says of all reply tokens of a batch."""
        said = [model(one.ids_B_L, one.reply_B_L) for one in reads]
        return Read(*(torch.cat(one) for one in zip(*said, strict=True)))

    def _check_start(self, rollouts: Sequence[Rollout], start_M: Tensor, ref_M: Tensor) -> None:
        """Before the first update policy, reference and engine are one: KL is 0, the ratio 1."""
        if self.trainer.log:
            return
        drawn = [r.logprobs for r in rollouts if r.logprobs is not None and r.reward is not None]
        others = {"reference": ref_M}
        if drawn:
            others["engine"] = start_M.new_tensor([p for logprobs in drawn for p in logprobs])
        for name, other_M in others.items():
            gap = (start_M - other_M).abs().max().item() if len(start_M) else 0.0
            if not gap < START:
                raise SuperalignError(
                    f"step 0: policy and {name} differ by up to {gap:.4g} nats on a token before "
                    f"anything was learnt: the {name} does not have the weights that are updated"
                )

    def _facts(
        self, rollouts: Sequence[Rollout], drift_B_T: Tensor, entropy_M: Tensor
    ) -> dict[str, float]:
        """Means over the replies of a batch, all processes together.

        On own replies the drift is KL(pi || pi_ref); on those of the base it is -KL(pi_ref || pi).
        """
        kept = [r for r in rollouts if r.reward is not None]
        sums = [
            sum(r.reward or 0.0 for r in kept),
            sum(len(r.reply) for r in kept),
            drift_B_T.sum().item() * (1 if self.is_fresh else -1),
            entropy_M.sum().item(),
            sum(r.ended for r in rollouts),
            len(kept),
        ]
        all_6 = summed(torch.tensor(sums, device=self.device).double())
        reward, tokens, drift, entropy, ended, n = all_6.tolist()
        if not n:
            raise SuperalignError(
                f"ppo: no reply of {self.config.batch} has a reward: none was scored, or none "
                "ended within learn.max_tokens; raise it, set learn.cut, or look at the scorer"
            )
        return {
            "reward": reward / n,
            "kl": drift / n,
            "entropy": entropy / tokens,
            "length": tokens / n,
            "ended": ended / self.config.batch,
            "used": n / self.config.batch,
        }

    def update(self, experience: Experience) -> None:
        """One change of the weights by the whole batch."""
        facts = {name: value / self.world for name, value in experience.facts.items()}
        for one in experience.passes:
            loss, parts = self._losses(one, experience.tokens)
            self.trainer.backward(loss, {**parts, **facts})  # which are summed over processes
            facts = {}
        self.trainer.step()

    def _losses(self, one: Pass, tokens: float) -> tuple[Tensor, dict[str, Tensor]]:
        """A pass's share of the loss, and of what is logged."""
        read: Read = self.actor(one.padded.ids_B_L, one.padded.reply_B_L)
        log_ratio_M = read.logprobs_M - one.old_M
        if not self.trainer.log:
            self._check_ratio(log_ratio_M.detach())
        clip, clip_value = self.config.clip, self.config.clip_value
        policy_M = surrogate.policy_loss(log_ratio_M, one.advantages_M, clip)
        value_M = surrogate.value_loss(read.values_M, one.values_M, one.returns_M, clip_value)
        policy, value = policy_M.sum() / tokens, value_M.sum() / tokens
        loss = policy + self.config.value * value
        ratio_M = log_ratio_M.detach().exp()
        clipped = ((ratio_M - 1).abs() > clip).sum() / tokens
        moved = (ratio_M - 1 - log_ratio_M.detach()).sum() / tokens
        return loss, {"policy": policy, "value": value, "clipped": clipped, "moved": moved}

    def _check_ratio(self, log_ratio_M: Tensor) -> None:
        gap = log_ratio_M.abs().max().item() if len(log_ratio_M) else 0.0
        if not gap < START:
            raise SuperalignError(
                f"step 0: the ratio to the policy that drew the replies is off by {gap:.4g} nats "
                "on a token before anything was learnt: it must be 1"
            )

    def save(self, rows: Sequence[Row], out: Path) -> dict[str, Any]:
        """Write weights, value head, tokenizer and `steps.jsonl`; the update in a few numbers."""
        return self.trainer.save(self.tokenizer, rows, out)
