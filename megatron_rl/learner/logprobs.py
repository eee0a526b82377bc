"""Log-probabilities of given tokens and entropy from hidden states, without all their logits.

Logits are made for a chunk of tokens at a time, and made again in the backward pass, so that memory
does not grow with tokens times vocabulary.

Shape letters: T = tokens of a packed row, C = tokens of a chunk, V = this rank's part of the
vocabulary, H = hidden size, K = tokens that the targets were chosen from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

_NEVER = -1e9
"""Logit of a vocabulary entry that could not be chosen: it exists only to divide the vocabulary
evenly, or a truncated sampler left it out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Support:
    """What the targets were chosen from, on the device; see sequences.SamplingSupport."""

    ids_K: Tensor
    """[K] int32 token ids of the whole vocabulary."""
    counts_T: Tensor
    """[T] int64 how many each target was chosen from; 0 for the whole vocabulary."""
    offsets: NDArray[np.int64]
    """[T + 1] on the host, where the ids of each target start, and the end of the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Head:
    """How hidden states become log-probabilities; see :func:`token_logprobs_and_entropy`."""

    temperature: float
    entropy_has_gradient: bool
    num_real: int
    tp_group: dist.ProcessGroup
    chunk_tokens: int
    is_fp32: bool
    support: Support | None


def token_logprobs_and_entropy(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    targets_T: Tensor,
    *,
    temperature: float,
    entropy_has_gradient: bool,
    num_real: int,
    tp_group: dist.ProcessGroup,
    chunk_tokens: int,
    is_fp32: bool,
    support: Support | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what each target token was worth and how undecided the policy was.

    The gradient of ``hidden_TH`` is this rank's part; over ``tp_group`` it has to be summed.

    Args:
        hidden_TH: [T, H] any float dtype; what the output layer is applied to, all of the row.
        weight_VH: [V, H] same dtype; this rank's part of the output layer.
        targets_T: [T] int64 token ids of the whole vocabulary.
        temperature: divides the logits, as the generator's sampler does.
        entropy_has_gradient: let the entropy take part in the backward pass.
        num_real: how many of this rank's V entries are tokens; the rest is padding.
        tp_group: ranks that hold the other parts, in the order of the vocabulary.
        chunk_tokens: tokens whose logits exist at one time; 0 for all.
        is_fp32: multiply in float32 whatever the dtype, forward and backward.
        support: what each target was chosen from, itself included; log-probabilities and entropies
            are then those of a policy that chooses among nothing else. None for the vocabulary.

    Returns:
        [T] float32 log-probabilities with gradient, [T] float32 entropies in nats.
    """
    head = _Head(
        temperature=temperature,
        entropy_has_gradient=entropy_has_gradient,
        num_real=num_real,
        tp_group=tp_group,
        chunk_tokens=chunk_tokens,
        is_fp32=is_fp32,
        support=support,
    )
    return _LogprobsAndEntropy.apply(hidden_TH, weight_VH, targets_T, head)


class _LogprobsAndEntropy(torch.autograd.Function):
    """Keeps the hidden states and three numbers per token; the backward pass needs no messages.

    The gradient of the weight is returned as any other, once per backward pass, so that the hooks
    of data parallelism find it where they look.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight_VH: Tensor, targets_T: Tensor, head: _Head
    ) -> tuple[Tensor, Tensor]:
        columns_T = _columns(targets_T, weight_VH, head)
        matrix_VH = _as_multiplied(weight_VH, head)
        results = [
            _score(_scaled_logits(hidden_TH[chunk], matrix_VH, head, chunk), columns_T[chunk], head)
            for chunk in _chunks(len(hidden_TH), head.chunk_tokens)
        ]
        logprobs_T, entropy_T, log_sum_T = (
            torch.cat(parts) for parts in zip(*results, strict=True)
        )
        ctx.save_for_backward(hidden_TH, weight_VH, columns_T, log_sum_T, entropy_T)
        ctx.head = head
        if not head.entropy_has_gradient:
            ctx.mark_non_differentiable(entropy_T)
        return logprobs_T, entropy_T

    @staticmethod
    def backward(
        ctx: Any, by_logprobs_T: Tensor, by_entropy_T: Tensor
    ) -> tuple[Tensor, Tensor | None, None, None]:
        hidden_TH, weight_VH, columns_T, log_sum_T, entropy_T = ctx.saved_tensors
        head = ctx.head
        matrix_VH = _as_multiplied(weight_VH, head)
        by_hidden_TH = torch.empty_like(hidden_TH)
        # Float32, as main_grad is: chunks are added up here, and bfloat16 would lose them.
        by_weight_VH = None
        if ctx.needs_input_grad[1]:
            by_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32)
        for chunk in _chunks(len(hidden_TH), head.chunk_tokens):
            by_logits_CV = _logits_gradient(
                _scaled_logits(hidden_TH[chunk], matrix_VH, head, chunk).sub_(
                    log_sum_T[chunk, None]
                ),
                columns_T[chunk],
                entropy_T[chunk],
                by_logprobs_T[chunk],
                by_entropy_T[chunk] if head.entropy_has_gradient else None,
            )
            by_logits_CV = by_logits_CV.div_(head.temperature).to(matrix_VH.dtype)
            by_hidden_TH[chunk] = by_logits_CV @ matrix_VH
            if by_weight_VH is not None:
                _add_product(by_weight_VH, by_logits_CV.t(), hidden_TH[chunk])
            # Before the next chunk's logits are made.
            del by_logits_CV
        by_weight = None if by_weight_VH is None else by_weight_VH.to(weight_VH.dtype)
        return by_hidden_TH, by_weight, None, None


def _chunks(num_tokens: int, chunk_tokens: int) -> Iterator[slice]:
    size = chunk_tokens if chunk_tokens else num_tokens
    for start in range(0, num_tokens, size):
        yield slice(start, min(start + size, num_tokens))


def _columns(targets_T: Tensor, weight_VH: Tensor, head: _Head) -> Tensor:
    """Return the column of each token in this rank's logits, -1 where another rank has it."""
    part = len(weight_VH)
    columns_T = targets_T - dist.get_rank(head.tp_group) * part
    return columns_T.where((columns_T >= 0) & (columns_T < part), -1)


def _left_out(support: Support, chunk: slice, matrix_VH: Tensor, head: _Head) -> Tensor:
    """Return [C, V] which of this rank's entries could not be chosen for each target."""
    counts_C = support.counts_T[chunk]
    first, last = int(support.offsets[chunk.start]), int(support.offsets[chunk.stop])
    rows = torch.arange(len(counts_C), device=counts_C.device)
    # The size is known on the host, so that nothing waits for the device.
    rows_K = rows.repeat_interleave(counts_C, output_size=last - first)
    columns_K = _columns(support.ids_K[first:last].long(), matrix_VH, head)
    left_out_CV = (counts_C > 0)[:, None].repeat(1, len(matrix_VH) + 1)
    # One more column takes what other ranks have.
    left_out_CV[rows_K, columns_K] = False
    return left_out_CV[:, :-1]


def _as_multiplied(weight_VH: Tensor, head: _Head) -> Tensor:
    return weight_VH.float() if head.is_fp32 else weight_VH


def _scaled_logits(hidden_CH: Tensor, matrix_VH: Tensor, head: _Head, chunk: slice) -> Tensor:
    """Return float32 logits over temperature, a tensor that the caller may overwrite."""
    scaled_CV = (hidden_CH.to(matrix_VH.dtype) @ matrix_VH.t()).float().div_(head.temperature)
    scaled_CV[:, head.num_real :] = _NEVER
    if head.support is not None:
        scaled_CV.masked_fill_(_left_out(head.support, chunk, matrix_VH, head), _NEVER)
    return scaled_CV


def _score(scaled_CV: Tensor, columns_C: Tensor, head: _Head) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probabilities, entropies and log-sum-exp over all ranks; overwrite the logits."""
    highest_C = scaled_CV.max(dim=1).values
    dist.all_reduce(highest_C, op=dist.ReduceOp.MAX, group=head.tp_group)
    shifted_CV = scaled_CV.sub_(highest_C[:, None])
    chosen_C = shifted_CV.gather(1, columns_C.clamp(min=0)[:, None])[:, 0].where(columns_C >= 0, 0)
    exp_CV = shifted_CV.exp()
    exp_sum_C = exp_CV.sum(dim=1)
    # One message for all sums: H = log(sum e^x) - sum(x e^x) / sum(e^x).
    sums = torch.stack([exp_sum_C, exp_CV.mul_(shifted_CV).sum(dim=1), chosen_C])
    dist.all_reduce(sums, group=head.tp_group)
    log_sum_C = sums[0].log()
    return sums[2] - log_sum_C, log_sum_C - sums[1] / sums[0], highest_C + log_sum_C


def _logits_gradient(
    log_probs_CV: Tensor,
    columns_C: Tensor,
    entropy_C: Tensor,
    by_logprobs_C: Tensor,
    by_entropy_C: Tensor | None,
) -> Tensor:
    """Return the gradient by scaled logits; overwrite ``log_probs_CV``.

    With p = e^l: that of the log-probability is onehot - p, that of the entropy -p (l + H).
    """
    if by_entropy_C is None:
        gradient_CV = log_probs_CV.exp_().mul_(-by_logprobs_C[:, None])
    else:
        gradient_CV = log_probs_CV.exp()
        factor_CV = log_probs_CV.add_(entropy_C[:, None]).mul_(-by_entropy_C[:, None])
        gradient_CV.mul_(factor_CV.sub_(by_logprobs_C[:, None]))
    mine_C = by_logprobs_C.where(columns_C >= 0, 0)
    return gradient_CV.scatter_add_(1, columns_C.clamp(min=0)[:, None], mine_C[:, None])


def _add_product(sum_VH: Tensor, left_VC: Tensor, right_CH: Tensor) -> None:
    if left_VC.dtype == torch.float32:
        sum_VH.addmm_(left_VC, right_CH.float())
    else:
        sum_VH.add_(left_VC @ right_CH)
