"""Log-probabilities of given tokens and entropy from vocabulary-parallel logits.

Shape letters: T = tokens of a packed row, V = this rank's part of the vocabulary.
"""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.tensor_parallel import vocab_parallel_cross_entropy
from torch import Tensor

_NEVER = -1e9
"""Logit of a vocabulary entry that exists only to divide the vocabulary evenly."""


def token_logprobs_and_entropy(
    logits_TV: Tensor,
    targets_T: Tensor,
    *,
    temperature: float,
    entropy_has_gradient: bool,
    num_real: int,
    tp_group: dist.ProcessGroup,
) -> tuple[Tensor, Tensor]:
    """Return what each target token was worth and how undecided the policy was.

    Args:
        logits_TV: [T, V] any float dtype; this rank's part of the vocabulary.
        targets_T: [T] int64 token ids of the whole vocabulary.
        temperature: divides the logits, as the generator's sampler does.
        entropy_has_gradient: keep what the entropy's gradient needs, which is one more [T, V]
            float32.
        num_real: how many of this rank's V entries are tokens; the rest is padding.
        tp_group: ranks that hold the other parts.

    Returns:
        [T] float32 log-probabilities with gradient, [T] float32 entropies in nats.
    """
    scaled_TV = logits_TV.float() / temperature
    if num_real < scaled_TV.shape[1]:
        is_padding = torch.arange(scaled_TV.shape[1], device=scaled_TV.device) >= num_real
        scaled_TV = scaled_TV.masked_fill(is_padding, _NEVER)
    if entropy_has_gradient:
        entropy_T = _DifferentiableEntropy.apply(scaled_TV, tp_group)
    else:
        entropy_T = _entropy(scaled_TV.detach(), tp_group)
    # The cross entropy overwrites its float32 input in place; the division has made that a copy.
    return -vocab_parallel_cross_entropy(scaled_TV, targets_T), entropy_T


class _DifferentiableEntropy(torch.autograd.Function):
    """The entropy with its gradient: dH/dx_v = -p_v (log p_v + H), without communication."""

    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, tp_group: dist.ProcessGroup) -> Tensor:
        shifted_TV = _below_highest(logits_TV, tp_group)
        entropy_T, log_sum_T = _entropy_and_log_sum(shifted_TV, tp_group)
        ctx.save_for_backward(shifted_TV, log_sum_T, entropy_T)
        return entropy_T

    @staticmethod
    def backward(ctx: Any, gradient_T: Tensor) -> tuple[Tensor, None]:
        shifted_TV, log_sum_T, entropy_T = ctx.saved_tensors
        log_probs_TV = shifted_TV - log_sum_T[:, None]
        probs_TV = log_probs_TV.exp()
        return (-gradient_T)[:, None] * probs_TV * (log_probs_TV + entropy_T[:, None]), None


def _entropy(logits_TV: Tensor, tp_group: dist.ProcessGroup) -> Tensor:
    return _entropy_and_log_sum(_below_highest(logits_TV, tp_group), tp_group)[0]


def _below_highest(logits_TV: Tensor, tp_group: dist.ProcessGroup) -> Tensor:
    highest_T = logits_TV.max(dim=1).values
    dist.all_reduce(highest_T, op=dist.ReduceOp.MAX, group=tp_group)
    return logits_TV - highest_T[:, None]


def _entropy_and_log_sum(shifted_TV: Tensor, tp_group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    exp_TV = shifted_TV.exp()
    # One message for both sums: H = log(sum e^x) - sum(x e^x) / sum(e^x).
    sums = torch.stack([exp_TV.sum(dim=1), (exp_TV * shifted_TV).sum(dim=1)])
    dist.all_reduce(sums, group=tp_group)
    log_sum_T = sums[0].log()
    return log_sum_T - sums[1] / sums[0], log_sum_T
