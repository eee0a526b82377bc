"""Correction weights for the mismatch of generator and learner at the same policy version.

With k = pi_old / pi_generator, pi_old being the learner at the start of the batch, the policy term
of a loss is multiplied by a function of k and its own ratios become pi / pi_old. A token that is
masked still counts in the denominators, as in the papers.

=======  ==============================  =========================================================
tis      min(k, 2)                       https://fengyao.notion.site/off-policy-rl
mis      k if k <= 2 else 0              https://yingru.notion.site (When Speed Kills Stability)
icepop   k if 0.5 <= k <= 5 else 0       https://ringtech.notion.site/icepop
=======  ==============================  =========================================================

log k is kept at ``log_ratio_bound`` or below, like that of every ratio, and such tokens are
counted. k is the token's own (level "token"), or the product over its sequence (level "sequence").

Shape letters: T = tokens of one packed row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from megatron_rl.algorithm.losses.sequences import SumOverSequence
from megatron_rl.algorithm.losses.surrogates import bounded_ratio, masked_difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    """A correction by name, and the range of ratios that it keeps."""

    name: str
    """A key of CORRECTIONS."""
    level: Literal["token", "sequence"]
    low: float
    high: float


def truncate(ratio_T: Tensor, low: float, high: float) -> Tensor:
    """Move ratios outside [low, high] to the nearer bound."""
    return ratio_T.clamp(low, high)


def mask(ratio_T: Tensor, low: float, high: float) -> Tensor:
    """Set ratios outside [low, high] to 0, which takes their tokens out of the loss."""
    return ratio_T.where((ratio_T >= low) & (ratio_T <= high), 0.0)


CORRECTIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "tis": truncate,
    "mis": mask,
    "icepop": mask,
}


@torch.no_grad()
def correction_weights(
    correction: Correction,
    old_logprobs_T: Tensor,
    behavior_logprobs_T: Tensor,
    is_token_T: Tensor,
    *,
    log_ratio_bound: float,
    sum_over_sequence: SumOverSequence,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each token's weight of its policy term, the ratio, and whether that was bounded.

    Args:
        old_logprobs_T: [T] float32, under the learner at the start of the batch.
        behavior_logprobs_T: [T] float32, as the generator reported them.
        is_token_T: [T] bool, false on prompt and padding, where weight and ratio mean nothing.
        log_ratio_bound: largest logarithm of a ratio.
        sum_over_sequence: sums over each token's sequence.
    """
    log_ratio_T = masked_difference(old_logprobs_T, behavior_logprobs_T, is_token_T)
    if correction.level == "sequence":
        log_ratio_T = sum_over_sequence(log_ratio_T)
    # Off tokens the ratio of a sequence with a large mismatch could be infinite.
    log_ratio_T = log_ratio_T.where(is_token_T, 0.0)
    ratio_T = bounded_ratio(log_ratio_T, log_ratio_bound)
    weight_T = CORRECTIONS[correction.name](ratio_T, correction.low, correction.high)
    return weight_T, ratio_T, log_ratio_T > log_ratio_bound
