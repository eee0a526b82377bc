"""Token sequences end to end, with what a loss needs of them.

Shape letters: N = sequences, T = tokens of all sequences (prompt and completion).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Sequences:
    """Sequences of prompt and completion tokens as flat arrays.

    Example: a prompt of two tokens with one completion token, then one of one with two::

        token_ids_T         [5, 6, 100,   9, 101, 102]
        offsets             [0, 3, 6]
        loss_mask_T         [0, 0, 1,     0, 1, 1]
        behavior_logprobs_T [0, 0, -0.5,  0, -1.2, -0.1]
        advantages_N        [1, -1]
        weights_N           [1 / 3, 1 / 3]
    """

    token_ids_T: NDArray[np.int64]
    offsets: NDArray[np.int64]
    """[N + 1] where each sequence starts, and the end of the last."""
    loss_mask_T: NDArray[np.bool_]
    """True on completion tokens."""
    behavior_logprobs_T: NDArray[np.float32]
    """What the generator reported while sampling; 0 on the prompt."""
    advantages_N: NDArray[np.float32]
    weights_N: NDArray[np.float32]
    """Weight of every completion token of the sequence; over a minibatch, weight times number of
    completion tokens sums to 1, unless the aggregation is "constant"; 0 where the sequence is kept
    out of the loss."""

    @property
    def num_sequences(self) -> int:
        """N."""
        return len(self.offsets) - 1

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        """Tokens of each sequence, prompt included."""
        return np.diff(self.offsets)
