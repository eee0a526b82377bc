"""Sums over the sequences of a packed row.

Shape letters: T = the tokens of a packed row that this rank holds, S = sequences of the row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

SumOverSequence = Callable[[Tensor], Tensor]
"""[T] values without gradient to [T]: at each token, the sum over all tokens of its sequence."""


def sum_over_sequence(
    values_T: Tensor, lengths_S: Tensor, *, add_up: Callable[[Tensor], None] | None
) -> Tensor:
    """Give every token the sum of ``values_T`` over its sequence.

    Args:
        values_T: [T] float, without gradient, sequence after sequence.
        lengths_S: [S] int, how many of the T tokens belong to each sequence; adds up to T.
        add_up: adds an [S] tensor, in place, over the ranks that share the sequences' tokens
            (context parallelism); None where a sequence lies whole in the row.
    """
    assert not values_T.requires_grad
    # A scatter would add in another order each time on a GPU; a replay has to be exact.
    sums_S = torch.segment_reduce(values_T, "sum", lengths=lengths_S, unsafe=True)
    if add_up is not None:
        add_up(sums_S)
    return sums_S.repeat_interleave(lengths_S, output_size=len(values_T))
