"""Policy-gradient settings, and what each named loss sets by default."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from megatron_rl.config.base import Section

LossName = Literal["magistral", "dapo", "dr_grpo", "grpo", "gspo", "cispo"]
CorrectionName = Literal["none", "tis", "mis", "icepop"]
Scale = Literal["minibatch", "group", "none"]
Aggregation = Literal["group", "token", "sequence", "constant"]

NO_FLOOR = 1.0
"""A clip_low that never binds: the ratio's floor is then 0."""


class AlgorithmConfig(Section):
    """The policy-gradient objective; a key not given has the default of the loss's paper."""

    loss: LossName = "magistral"
    """Loss by the name of its paper; docs/recipe.md has the equations and defaults."""
    clip_low: Annotated[float, Field(gt=0, le=1)] | None = None
    """Ratio floor is 1 - clip_low; 1 is no floor. The loss's default when not given."""
    clip_high: Annotated[float, Field(gt=0)] | None = None
    """Ratio ceiling is 1 + clip_high. The loss's default when not given."""
    log_ratio_bound: Annotated[float, Field(gt=0, le=80)] = 20.0
    """Largest logarithm of a ratio, in the loss, the correction and the KL penalty. Pushing a token
    down has no bound in the papers' losses, and exp() overflows at 88; a token beyond the bound
    keeps its clipped or bounded value, has no gradient through the ratio, and is counted in
    policy/bounded_tokens."""
    advantages: Scale | None = None
    """Standard deviation that divides the group-centred rewards. The loss's default when not
    given."""
    aggregation: Aggregation | None = None
    """Token weights: mean over each group's tokens (Magistral), over all tokens (DAPO), over each
    sequence's tokens (GRPO), or a sum over tokens divided by max_new_tokens per sequence
    (Dr. GRPO). The loss's default when not given."""
    correction: CorrectionName = "none"
    """Weight for the mismatch of generator and learner: tis truncates, mis and icepop mask. With a
    correction, ratios are to the learner at the start of the batch instead of to the generator."""
    correction_level: Literal["token", "sequence"] = "token"
    """Correct every token by its own ratio, or by the product of those of its sequence."""
    correction_low: Annotated[float, Field(ge=0)] | None = None
    """Smallest ratio of learner to generator that is kept; the correction's default when not
    given."""
    correction_high: Annotated[float, Field(gt=0)] | None = None
    """Largest ratio that is kept; the correction's default when not given."""
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Penalty on the divergence from the weights RL started from, which are then held a second
    time; 0 holds no reference model."""
    entropy_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Bonus on the policy's entropy in nats; above 0 it needs one more copy of a row's logits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """Settings of a loss's paper; meanings as in AlgorithmConfig."""

    clip_low: float
    clip_high: float
    advantages: Scale
    aggregation: Aggregation


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectionBounds:
    """Range of the ratios of learner to generator that a correction keeps."""

    low: float
    high: float


LOSS_DEFAULTS: Mapping[LossName, LossSettings] = {
    # arXiv:2506.10910; its clip_low is not printed and is DAPO's.
    "magistral": LossSettings(
        clip_low=0.2, clip_high=0.28, advantages="minibatch", aggregation="group"
    ),
    # arXiv:2503.14476, section 4.1.
    "dapo": LossSettings(clip_low=0.2, clip_high=0.28, advantages="group", aggregation="token"),
    # arXiv:2503.20783; the clip is PPO's, as in its code.
    "dr_grpo": LossSettings(clip_low=0.2, clip_high=0.2, advantages="none", aggregation="constant"),
    # arXiv:2402.03300; the clip is not printed and is PPO's. Its KL coefficient is 0.04.
    "grpo": LossSettings(clip_low=0.2, clip_high=0.2, advantages="group", aggregation="sequence"),
    # arXiv:2507.18071, section 5.1.
    "gspo": LossSettings(clip_low=3e-4, clip_high=4e-4, advantages="group", aggregation="sequence"),
    # arXiv:2506.13585 without its value; the ceiling of 5 is arXiv:2510.13786's.
    "cispo": LossSettings(
        clip_low=NO_FLOOR, clip_high=4.0, advantages="group", aggregation="token"
    ),
}

CORRECTION_DEFAULTS: Mapping[CorrectionName, CorrectionBounds] = {
    "tis": CorrectionBounds(low=0.0, high=2.0),
    "mis": CorrectionBounds(low=0.0, high=2.0),
    "icepop": CorrectionBounds(low=0.5, high=5.0),
}


def loss_settings(algorithm: AlgorithmConfig) -> LossSettings:
    """Return the loss's settings: those given, and its paper's for the others."""
    paper = LOSS_DEFAULTS[algorithm.loss]
    return LossSettings(
        clip_low=paper.clip_low if algorithm.clip_low is None else algorithm.clip_low,
        clip_high=paper.clip_high if algorithm.clip_high is None else algorithm.clip_high,
        advantages=paper.advantages if algorithm.advantages is None else algorithm.advantages,
        aggregation=paper.aggregation if algorithm.aggregation is None else algorithm.aggregation,
    )


def correction_bounds(algorithm: AlgorithmConfig) -> CorrectionBounds | None:
    """Return the range of ratios that the correction keeps, None without a correction."""
    if algorithm.correction == "none":
        return None
    usual = CORRECTION_DEFAULTS[algorithm.correction]
    low, high = algorithm.correction_low, algorithm.correction_high
    return CorrectionBounds(
        low=usual.low if low is None else low, high=usual.high if high is None else high
    )
