"""FLOPs of training on a sequence, attention included. Pure arithmetic.

Shape letters: N = sequences.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.parameters import attention_parameters

_PER_PARAMETER = 6
"""A multiplication and an addition, in the forward pass and twice in the backward pass."""
_PER_PAIR = 6
"""The same for a query and a key, whose product is made, and once more for the value it weighs."""


def multiplying_parameters(model: ModelSpec) -> int:
    """Count the parameters that every token is multiplied with.

    Of experts only those a token goes to; not norms, nor the embedding, which is looked up.
    """
    num_mixtures = sum(model.mixtures)
    dense = 3 * model.hidden_size * model.ffn_size
    ffn_size = model.experts_per_token * model.expert_ffn_size + model.shared_ffn_size
    experts = 3 * model.hidden_size * ffn_size
    router = model.hidden_size * model.num_experts
    return (
        model.num_layers * attention_parameters(model).total
        + (model.num_layers - num_mixtures) * dense
        + num_mixtures * (router + experts)
        + model.vocab_size * model.hidden_size
    )


def attention_pairs(
    lengths_N: Sequence[int] | NDArray[Any], window: int | None
) -> NDArray[np.float64]:
    """Return how many (query, key) pairs causal attention computes in one layer and head.

    A query at position i sees i + 1 keys, at most ``window``.
    """
    lengths = np.asarray(lengths_N, dtype=np.float64)
    if window is None:
        return lengths * (lengths + 1) / 2
    rising = np.minimum(lengths, window)
    return rising * (rising + 1) / 2 + (lengths - rising) * window


def training_flops(
    lengths_N: Sequence[int] | NDArray[Any], model: ModelSpec
) -> NDArray[np.float64]:
    """Return the FLOPs of a forward and backward pass over each sequence, without recomputation.

    Args:
        lengths_N: [N] tokens of each sequence.

    Returns:
        [N] FLOPs over the whole model, however it is laid out.
    """
    lengths = np.asarray(lengths_N, dtype=np.float64)
    pairs = sum(
        (
            num_layers * attention_pairs(lengths, window)
            for window, num_layers in Counter(model.windows).items()
        ),
        np.zeros_like(lengths),
    )
    sizes = model.num_heads * (model.head_dim + model.value_dim)
    return _PER_PARAMETER * multiplying_parameters(model) * lengths + _PER_PAIR * sizes * pairs
