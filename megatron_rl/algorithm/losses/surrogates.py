"""Surrogate objective of each named loss at a token; docs/recipe.md compares them.

With r_t = pi(o_t) / pi_anchor(o_t), the anchor being the generator (or, under a correction, the
learner at the start of the batch), A the advantage of the completion and w its token weight, every
loss is ``-sum_t w_t * term_t``. They differ in the term, in A and in w:

========= ==================== ============================ ============== ========== ==========
loss      term                 w (aggregation)              A (advantages) clip       paper
========= ==================== ============================ ============== ========== ==========
magistral min(r A, clip(r) A)  1 / (groups * group tokens)  by minibatch   0.2, 0.28  2506.10910
dapo      min(r A, clip(r) A)  1 / all tokens               by group       0.2, 0.28  2503.14476
dr_grpo   min(r A, clip(r) A)  1 / (sequences * max_tokens) undivided      0.2, 0.2   2503.20783
grpo      min(r A, clip(r) A)  1 / (sequences * |o|)        by group       0.2, 0.2   2402.03300
gspo      min(s A, clip(s) A)  1 / (sequences * |o|)        by group       3e-4, 4e-4 2507.18071
cispo     sg(clip(r)) A log pi 1 / all tokens               by group       1, 4       2506.13585
========= ==================== ============================ ============== ========== ==========

where s = (pi(o) / pi_anchor(o))^(1/|o|), sg stops the gradient and clip keeps a ratio within
[1 - clip_low, 1 + clip_high]. Where A < 0 the minimum has no bound as r grows, so log r is kept at
``log_ratio_bound`` or below: a token beyond it has a finite term and no gradient, and is counted.
Rewards less their group's mean are divided by the standard deviation of the minibatch or the group.
The papers' values are shown; they are the defaults of ``config.algorithm``, which says where one is
not printed. Links are https://arxiv.org/abs/NUMBER. DAPO's overlong penalty is the reward's length
part ([reward]).

Shape letters: T = tokens of one packed row.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from megatron_rl.algorithm.losses.sequences import SumOverSequence


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTerms:
    """Terms of a loss at each token; meaningless where there is no token."""

    objective_T: Tensor
    """Term that the loss maximises, with gradient."""
    ratio_T: Tensor
    """The ratio that was clipped: the token's, or its sequence's."""
    is_clipped_T: Tensor
    """Whether the ratio lay outside the bounds, which need not stop the gradient."""
    is_bounded_T: Tensor
    """Whether the ratio's logarithm lay above its bound."""


class Surrogate(Protocol):
    """A loss at each token.

    Args:
        logprobs_T: [T] float32 log-probability of each token under the learner, with gradient.
        anchor_logprobs_T: [T] float32, under the policy that ratios are to.
        advantages_T: [T] float32 advantage of the completion the token belongs to.
        is_token_T: [T] bool, false on prompt and padding, which may hold garbage.
        clip_low: ratio floor is 1 - clip_low.
        clip_high: ratio ceiling is 1 + clip_high.
        log_ratio_bound: largest logarithm of a ratio.
        sum_over_sequence: sums over each token's sequence.
    """

    def __call__(
        self,
        logprobs_T: Tensor,
        anchor_logprobs_T: Tensor,
        advantages_T: Tensor,
        is_token_T: Tensor,
        *,
        clip_low: float,
        clip_high: float,
        log_ratio_bound: float,
        sum_over_sequence: SumOverSequence,
    ) -> TokenTerms: ...


def clipped_ratio(
    logprobs_T: Tensor,
    anchor_logprobs_T: Tensor,
    advantages_T: Tensor,
    is_token_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    log_ratio_bound: float,
    sum_over_sequence: SumOverSequence,
) -> TokenTerms:
    """Return PPO's min(r A, clip(r) A), as in Magistral, DAPO, Dr. GRPO and GRPO."""
    log_ratio_T = masked_difference(logprobs_T, anchor_logprobs_T, is_token_T)
    return _pessimistic(
        log_ratio_T,
        advantages_T,
        clip_low=clip_low,
        clip_high=clip_high,
        log_ratio_bound=log_ratio_bound,
    )


def clipped_sequence_ratio(
    logprobs_T: Tensor,
    anchor_logprobs_T: Tensor,
    advantages_T: Tensor,
    is_token_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    log_ratio_bound: float,
    sum_over_sequence: SumOverSequence,
) -> TokenTerms:
    """Return GSPO's min(s A, clip(s) A) at every token of the sequence (arXiv:2507.18071).

    The ratio is that of its "GSPO-token" (eq. 13), s's value with the gradient of the token's own
    log-probability. Where all tokens of a sequence have one weight and one advantage, as here, the
    gradient of the sum is GSPO's own (section 4.3), and no gradient crosses the sum over the
    sequence.
    """
    log_ratio_T = masked_difference(logprobs_T, anchor_logprobs_T, is_token_T)
    length_T = sum_over_sequence(is_token_T.to(log_ratio_T.dtype)).clamp(min=1)
    mean_T = sum_over_sequence(log_ratio_T.detach()) / length_T
    own_T = logprobs_T.where(is_token_T, 0.0)
    return _pessimistic(
        mean_T + (own_T - own_T.detach()),
        advantages_T,
        clip_low=clip_low,
        clip_high=clip_high,
        log_ratio_bound=log_ratio_bound,
    )


def clipped_weight(
    logprobs_T: Tensor,
    anchor_logprobs_T: Tensor,
    advantages_T: Tensor,
    is_token_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    log_ratio_bound: float,
    sum_over_sequence: SumOverSequence,
) -> TokenTerms:
    """Return CISPO's sg(clip(r)) A log pi, which silences no token (arXiv:2506.13585, eq. 4)."""
    log_ratio_T = masked_difference(logprobs_T, anchor_logprobs_T, is_token_T).detach()
    ratio_T = bounded_ratio(log_ratio_T, log_ratio_bound)
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    return TokenTerms(
        objective_T=clipped_T * advantages_T * logprobs_T.where(is_token_T, 0.0),
        ratio_T=ratio_T,
        is_clipped_T=ratio_T != clipped_T,
        is_bounded_T=log_ratio_T > log_ratio_bound,
    )


LOSSES: dict[str, Surrogate] = {
    "magistral": clipped_ratio,
    "dapo": clipped_ratio,
    "dr_grpo": clipped_ratio,
    "grpo": clipped_ratio,
    "gspo": clipped_sequence_ratio,
    "cispo": clipped_weight,
}


def masked_difference(logprobs_T: Tensor, others_T: Tensor, is_token_T: Tensor) -> Tensor:
    """Return the difference at tokens and 0 elsewhere.

    Padding may hold garbage; it is neutralised before exp(), because 0 * inf is nan.
    """
    return (logprobs_T - others_T).where(is_token_T, 0.0)


def bounded_ratio(log_ratio_T: Tensor, log_ratio_bound: float) -> Tensor:
    """Return the ratio, at most e^bound; no gradient flows where that is less than the ratio.

    The bound comes before exp(): the gradient of an infinite ratio that is clipped or masked
    afterwards would be 0 * inf, which is nan.
    """
    return log_ratio_T.clamp(max=log_ratio_bound).exp()


def _pessimistic(
    log_ratio_T: Tensor,
    advantages_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    log_ratio_bound: float,
) -> TokenTerms:
    ratio_T = bounded_ratio(log_ratio_T, log_ratio_bound)
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    return TokenTerms(
        objective_T=(ratio_T * advantages_T).minimum(clipped_T * advantages_T),
        ratio_T=ratio_T.detach(),
        is_clipped_T=ratio_T.detach() != clipped_T.detach(),
        is_bounded_T=log_ratio_T.detach() > log_ratio_bound,
    )
