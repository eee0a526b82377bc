"""What training on a sequence costs, attention included. Pure arithmetic.

Shape letters: N = sequences.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megatron_rl.parallelism.shape import ModelShape

_PER_PARAMETER = 6
"""A multiplication and an addition, in the forward pass and twice in the backward pass."""
_PER_PAIR = 12
"""The same for a query and a key, whose product is made and then weighs a value."""


def multiplying_parameters(shape: ModelShape) -> int:
    """Count the parameters that every token is multiplied with.

    Of experts only those a token goes to; not norms, nor the embedding, which is looked up.
    """
    queries, keys = shape.num_heads * shape.head_dim, shape.num_groups * shape.head_dim
    attention = shape.hidden_size * (2 * queries + 2 * keys)
    num_mixtures = sum(shape.mixtures)
    dense = 3 * shape.hidden_size * shape.ffn_size
    experts = shape.experts_per_token * 3 * shape.hidden_size * shape.expert_ffn_size
    router = shape.hidden_size * shape.num_experts
    return (
        shape.num_layers * attention
        + (shape.num_layers - num_mixtures) * dense
        + num_mixtures * (router + experts)
        + shape.vocab_size * shape.hidden_size
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
    lengths_N: Sequence[int] | NDArray[Any], shape: ModelShape
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
            for window, num_layers in Counter(shape.windows).items()
        ),
        np.zeros_like(lengths),
    )
    queries = shape.num_heads * shape.head_dim
    return _PER_PARAMETER * multiplying_parameters(shape) * lengths + _PER_PAIR * queries * pairs
