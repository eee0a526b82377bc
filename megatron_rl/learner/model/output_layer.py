"""Output layer of the last stage: returns hidden states, and keeps its weight beside them.

Shape letters: T = tokens of a packed row that this rank holds, S = this rank's part of them under
sequence parallelism (else T), V = this rank's part of the vocabulary, H = hidden size.
"""

from typing import Any

import torch.distributed as dist
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.utils import unwrap_model
from torch import Tensor


def return_hidden_states(model: Any) -> None:
    """Make a (wrapped) GPTModel return [1, S, H] hidden states where it would return logits.

    The layer stays a module that is called, with its weight under its name: checkpoints find it,
    and so do the hooks that wait for gathered parameters before a module runs.
    """
    bare = unwrap_model(model)
    if bare.post_process:
        bare.output_layer.forward = _pass_through


def output_weight(model: Any) -> Tensor:
    """Return the [V, H] weight that the output layer of a (wrapped) last-stage model multiplies."""
    bare = unwrap_model(model)
    if bare.share_embeddings_and_output_weights:
        return bare.shared_embedding_or_output_weight()
    return bare.output_layer.weight


def whole_hidden_states(
    hidden_1SH: Tensor, *, is_sequence_parallel: bool, tp_group: dist.ProcessGroup
) -> Tensor:
    """Return [T, H] on every rank of ``tp_group``; the backward pass sums what they give back."""
    if is_sequence_parallel:
        return gather_from_sequence_parallel_region(hidden_1SH[0], group=tp_group)
    return copy_to_tensor_model_parallel_region(hidden_1SH[0], group=tp_group)


def _pass_through(hidden: Tensor, **_: Any) -> tuple[Tensor, None]:
    """Stand in for ColumnParallelLinear.forward, which returns (output, bias)."""
    return hidden, None
