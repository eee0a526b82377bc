"""Token sequences end to end, with what a loss needs of them.

Shape letters: N = sequences, T = tokens of all sequences (prompt and completion), K = kept tokens
of all positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSupport:
    """Token ids that a truncated sampler could have chosen at each position.

    A position without any is not truncated: there every token of the vocabulary could be chosen.

    Example: a prompt token, then one sampled from three tokens and one from two::

        ids_K   [100, 7, 8,   101, 9]
        offsets [0, 0, 3, 5]
    """

    ids_K: NDArray[np.int32]
    """Token ids of the first position, then of the second, ...; in no order within one."""
    offsets: NDArray[np.int64]
    """[T + 1] where the ids of each position start, and the end of the last."""

    @property
    def num_positions(self) -> int:
        """T."""
        return len(self.offsets) - 1

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[int]]) -> Self:
        """Return the support of positions that are given as lists of token ids."""
        return cls(
            ids_K=np.fromiter((token for row in rows for token in row), dtype=np.int32),
            offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        )

    @classmethod
    def whole(cls, num_positions: int) -> Self:
        """Return the support of positions that are not truncated."""
        return cls(
            ids_K=np.zeros(0, dtype=np.int32), offsets=np.zeros(num_positions + 1, dtype=np.int64)
        )

    @classmethod
    def joined(cls, parts: "Sequence[SamplingSupport]") -> Self:
        """Return the support of the positions of all parts, end to end."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(
            ids_K=np.concatenate([part.ids_K for part in parts]),
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )

    def rows(self) -> list[list[int]]:
        """Return the token ids of each position."""
        return [part.tolist() for part in np.split(self.ids_K, self.offsets[1:-1])]

    def take(self, positions: NDArray[np.integer]) -> "SamplingSupport":
        """Return the support at some positions; -1 stands for one that is not truncated."""
        # The last of each, which -1 takes, is a position without ids.
        lengths = np.append(np.diff(self.offsets), 0)[positions]
        starts = self.offsets[positions]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Each id's place: where its position starts in the old ids, plus its place there.
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return SamplingSupport(
            ids_K=self.ids_K[np.repeat(starts, lengths) + within], offsets=offsets
        )


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
    support: SamplingSupport | None = None
    """What each completion token was chosen from, where the sampler was truncated (top_k, top_p,
    min_p); log-probs are then those of the truncated sampler. None where it was not."""

    @property
    def num_sequences(self) -> int:
        """N."""
        return len(self.offsets) - 1

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        """Tokens of each sequence, prompt included."""
        return np.diff(self.offsets)
