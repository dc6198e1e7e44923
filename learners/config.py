"""How to learn: what a scenario's `learn:` block may say, method by method. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, TypeAdapter, field_validator

from superalign.store.records import Record


class LearnConfig(Record):
    """One update of one policy. The learner's seed and rows fix its result."""

    kinds: ClassVar[tuple[str, ...]]
    """The kinds of rows that it takes."""
    from_base: ClassVar[bool] = False
    """Whether every update starts from the run's first version, not from its last."""
    speaks: ClassVar[bool] = True
    """Whether what it makes can sit in a seat: a model that only scores cannot."""
    lr: float = Field(default=1e-4, gt=0)
    """AdamW's peak learning rate, reached after a short linear warm-up and kept."""
    steps: int = Field(default=120, gt=0)
    """Updates of the weights."""
    batch: int = Field(default=64, gt=0)
    """Rows in one update, drawn from the shuffled rows again and again."""
    micro_batch: int = Field(default=64, gt=0)
    """Rows in one forward pass. Fewer need less memory and give the same update."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this norm."""
    lora: int | None = Field(default=None, gt=0)
    """Rank of an adapter over the base, which alone learns and is stored (LoRA). None: all weights
    learn. An adapter wants a learning rate about ten times as high."""
    seed: int = 0
    """Seeds the order of the rows, and what is new in a policy."""

    @classmethod
    def needs(cls) -> tuple[str, ...]:
        """The kinds of rows of which it needs one: answers to copy may be missing beside others."""
        return tuple(kind for kind in cls.kinds if kind != "sft") or cls.kinds

    def steps_in(self, iteration: int) -> int:
        """Updates of the weights in an iteration, counted from 1."""
        return self.steps


class SftConfig(LearnConfig):
    """Copy accepted answers."""

    kinds = ("sft",)
    method: Literal["sft"] = "sft"


class CopyConfig(LearnConfig):
    """A loss beside which accepted answers are copied."""

    kinds = ("pref", "sft")
    sft: float = Field(default=1.0, ge=0)
    """Weight of the mean negative log-probability per token of accepted answers. 0 is the plain
    loss, under which a weak base loses accuracy on a few hundred pairs."""


class PreferenceConfig(CopyConfig):
    """What learners from preferences are told besides."""

    beta: float = Field(default=0.1, gt=0)
    """Weight of a log-ratio to the reference. Larger drifts less."""


class DpoConfig(PreferenceConfig):
    """Direct preference optimisation of pairs."""

    method: Literal["dpo"] = "dpo"


class ExoConfig(PreferenceConfig):
    """Efficient exact optimisation of pairs, each as far as its label is believed."""

    method: Literal["exo"] = "exo"


class ExoRwConfig(PreferenceConfig):
    """Efficient exact optimisation of K replies with rewards."""

    kinds = ("rank", "sft")
    method: Literal["exo_rw"] = "exo_rw"
    beta_r: float = Field(default=0.1, gt=0)
    """Temperature of the rewards."""


class CdpoConfig(PreferenceConfig):
    """DPO of pairs whose labels are smoothed, each as far as it is doubted."""

    method: Literal["cdpo"] = "cdpo"


class RdpoConfig(PreferenceConfig):
    """DPO that flipped labels do not bias, each as likely flipped as it is believed to be."""

    method: Literal["rdpo"] = "rdpo"


class IpoConfig(CopyConfig):
    """Identity preference optimisation: every pair drawn apart as far, and no farther."""

    method: Literal["ipo"] = "ipo"
    tau: float = Field(default=0.1, gt=0)
    """Strength of the pull to the reference: replies end 1 / (2 tau) nats per token apart."""


class KtoConfig(PreferenceConfig):
    """Single answers that are good or bad, weighed against what the policy gained on average."""

    kinds = ("reward", "pref", "sft")
    method: Literal["kto"] = "kto"
    desirable: float | None = Field(default=None, gt=0)
    """Weight of good answers; null: what makes them count as much as the bad ones in all."""
    undesirable: float | None = Field(default=None, gt=0)
    """Weight of bad answers; null likewise."""


class ProConfig(LearnConfig):
    """Rankings of K replies, by their own log-probabilities; no reference."""

    kinds = ("rank",)
    method: Literal["pro"] = "pro"
    sft: float = Field(default=0.05, ge=0)
    """Weight of the best reply's negative log-probability, times (K - 1)^2."""


class StarConfig(LearnConfig):
    """Copy answers of one's own that turned out right, from the first version on each time."""

    kinds = ("sft",)
    from_base = True
    method: Literal["star"] = "star"
    growth: float = Field(default=1.2, ge=1)
    """By how much the steps grow with every iteration."""

    def steps_in(self, iteration: int) -> int:
        """Later versions solve more, so there is more to copy."""
        return round(self.steps * self.growth ** max(0, iteration - 1))


class SpinConfig(PreferenceConfig):
    """Tell gold answers from samples of one's own."""

    kinds = ("sft",)
    method: Literal["spin"] = "spin"
    sft: float = Field(default=0.0, ge=0)
    """Weight of the mean negative log-probability per token of gold answers. 0 is the paper's."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the samples. At 1 they are the opponent's own distribution."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest sample. One that does not end by then is left out."""


class RsoConfig(PreferenceConfig):
    """Pairs of replies that rejection sampling takes for those of the optimal policy."""

    kinds = ("rank", "sft")
    method: Literal["rso"] = "rso"
    beta_r: float = Field(default=0.5, gt=0)
    """Temperature of the rewards. Towards 0 the best replies are kept, large any."""
    keep: int = Field(default=8, ge=2)
    """Replies kept of every row, which must have more to choose from."""
    pairing: Literal["first_round", "tournament"] = "first_round"
    """Replies paired once at random, or in a knock-out tournament: winners meet again."""
    loss: Literal["sigmoid", "hinge"] = "sigmoid"
    """-log sig(z), as DPO's, or max(0, 1 - z), of z = beta times the difference of h."""


class SelfRewardingConfig(PreferenceConfig):
    """Best against worst reply of a row, by rewards that the policy itself gave."""

    kinds = ("rank", "sft")
    method: Literal["self_rewarding"] = "self_rewarding"


class WeakToStrongConfig(LearnConfig):
    """Learn which reply is right from a weaker model's probabilities."""

    kinds = ("rank", "pref")
    method: Literal["weak_to_strong"] = "weak_to_strong"
    weak: str | None = None
    """Folder of the weaker model, which labels the replies of `rank` and `pref` rows, whatever
    they were labelled. None: `rank` rows have its probabilities as rewards."""
    confidence: float = Field(default=0.5, ge=0, lt=1)
    """Weight, in the end, of the learner's own hardened predictions. 0 is naive fine-tuning."""
    schedule: Literal["paper", "released"] = "paper"
    """How it gets there: evenly over the first fifth, or as in the released code, which jumps."""
    prior: float | None = Field(default=0.5, gt=0, lt=1)
    """Share of rows of which the first reply is right; null: what each batch's labels say."""


class OnlineConfig(LearnConfig):
    """What learners from replies of their own are told besides. `reward` rows give the prompts."""

    kinds = ("reward",)
    scorer: str | None = None
    """Folder of a reward model or a verifier: what fresh replies earn. None takes the scorer that
    the learner is called with."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest fresh reply."""
    cut: float | None = Field(default=None, ge=0)
    """What a reply that did not end within `max_tokens` pays. None leaves such replies out."""


class PpoConfig(OnlineConfig):
    """Proximal policy optimisation with a value head. Without a scorer it learns from the replies
    of `reward` rows, which must be the base's own, drawn at temperature 1."""

    method: Literal["ppo"] = "ppo"
    epochs: int = Field(default=4, gt=0)
    """Updates of the weights, of all `steps`, from one batch of replies."""
    kl: float = Field(default=0.05, ge=0)
    """Price of a nat by which a token is likelier than under the reference."""
    clip: float = Field(default=0.2, gt=0)
    """How far the ratio of a token's probabilities may move and still be pushed further."""
    clip_value: float = Field(default=0.2, gt=0)
    """The same of a token's value."""
    value: float = Field(default=0.1, ge=0)
    """Weight of the value loss."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount per token."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """GAE's: 1 trusts what was earned, 0 what the next token's value says."""


class GroupConfig(OnlineConfig):
    """What learners are told that hold replies to one prompt against each other."""

    group: int = Field(default=8, ge=2)
    """Replies to one prompt. `batch` is a multiple of it."""
    kl: float = Field(default=0.05, ge=0)
    """Price of a nat from the reference."""


class GrpoConfig(GroupConfig):
    """Group relative policy optimisation, by TRL."""

    method: Literal["grpo"] = "grpo"


class RlooConfig(GroupConfig):
    """REINFORCE with the other replies' mean reward as baseline, by TRL."""

    method: Literal["rloo"] = "rloo"


class RewardConfig(LearnConfig):
    """A reward model, from pairs or rankings: it scores replies and writes none."""

    kinds = ("pref", "rank")
    speaks = False
    method: Literal["reward"] = "reward"
    heldout: float = Field(default=0.1, ge=0, lt=1)
    """Share of prompts that only measure. Which, follows from their text."""
    critic: str | None = None
    """Folder of a policy whose critique of a reply the model reads beside it."""

    @field_validator("lora")
    @classmethod
    def _is_whole(cls, lora: int | None) -> None:
        if lora is not None:
            raise ValueError(f"{lora}: a reward model is always whole; leave it out")


class VerifierConfig(LearnConfig):
    """A verifier, which values a reply at every token."""

    kinds = ("reward",)
    speaks = False
    method: Literal["verifier"] = "verifier"


class GenrmConfig(LearnConfig):
    """A generative verifier, which says `yes` or `no` of a reply, behind a rationale or without."""

    kinds = ("reward",)
    method: Literal["genrm"] = "genrm"
    solutions: float = Field(default=0.3, ge=0)
    """Weight of writing right replies, which helps to judge them."""
    rationales: int = Field(default=0, ge=0)
    """Critiques drawn of each reply, of which those are learnt that agree with its label, and the
    verdict behind them. 0 teaches the verdict alone."""
    critic: str | None = None
    """Folder of the policy that writes these critiques. None is the one that learns."""
    votes: int = Field(default=8, gt=0)
    """Rationales whose mean verdict is the score of a reply, where rationales were learnt."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest rationale. One that does not end by then is left out."""


AnyLearnConfig = Annotated[
    SftConfig
    | DpoConfig
    | ExoConfig
    | ExoRwConfig
    | CdpoConfig
    | RdpoConfig
    | IpoConfig
    | KtoConfig
    | ProConfig
    | StarConfig
    | SpinConfig
    | RsoConfig
    | SelfRewardingConfig
    | WeakToStrongConfig
    | PpoConfig
    | GrpoConfig
    | RlooConfig
    | RewardConfig
    | VerifierConfig
    | GenrmConfig,
    Field(discriminator="method"),
]

CONFIGS: dict[str, type[LearnConfig]] = {
    config.model_fields["method"].default: config
    for config in get_args(get_args(AnyLearnConfig)[0])
}
"""Method -> what it may be told."""


def learn_config(data: Mapping[str, Any]) -> AnyLearnConfig:
    """The settings of `data["method"]`. Raises pydantic's ValidationError."""
    return TypeAdapter(AnyLearnConfig).validate_python(dict(data))
