"""Block-FP8 quantisation of matrices: the largest element of each block becomes 448."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from megatron_rl.conversion.block_fp8.tensors import (
    BLOCK,
    QUANTISED_DTYPE,
    num_blocks,
    scale_name,
)

_DTYPE = getattr(torch, QUANTISED_DTYPE)
_LARGEST = torch.finfo(_DTYPE).max
# As DeepGEMM and SGLang have it: a block that is smaller, such as one of zeros, is scaled as if its
# largest element were this.
_SMALLEST = 1e-4
# Elements that are quantised at once, which bounds the float32 copies that are made of them.
_MOST_ELEMENTS = 2**24


@torch.no_grad()
def quantise_blocks(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return values [rows, cols] in float8 and scales [row blocks, column blocks] in float32.

    A value times its block's scale is the element, rounded. Blocks are independent of each other:
    parts that are cut between blocks give parts of what the whole gives, bit for bit.
    """
    rows, cols = matrix.shape
    values = torch.empty(rows, cols, dtype=_DTYPE, device=matrix.device)
    scales = torch.empty(num_blocks(rows), num_blocks(cols), device=matrix.device)
    blocks_at_once = max(1, _MOST_ELEMENTS // (BLOCK * cols))
    for first in range(0, scales.shape[0], blocks_at_once):
        part = slice(first * BLOCK, (first + blocks_at_once) * BLOCK)
        found = _quantise(matrix[part])
        values[part], scales[first : first + blocks_at_once] = found
    return values, scales


def _quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The computation of SGLang and DeepGEMM (``per_block_cast_to_fp8``), in their order."""
    rows, cols = matrix.shape
    padded = matrix.new_zeros(num_blocks(rows) * BLOCK, num_blocks(cols) * BLOCK)
    padded[:rows, :cols] = matrix
    blocks = padded.view(-1, BLOCK, padded.shape[1] // BLOCK, BLOCK)
    largest = blocks.abs().float().amax(dim=(1, 3), keepdim=True).clamp(_SMALLEST)
    values = (blocks * (_LARGEST / largest)).to(_DTYPE)
    return values.view_as(padded)[:rows, :cols], (largest / _LARGEST)[:, 0, :, 0]


def quantised_weights(
    weights: Iterable[tuple[str, Tensor]], quantised: frozenset[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield (Hugging Face name, whole tensor), of quantised ones values, then scales."""
    for name, tensor in weights:
        if name not in quantised:
            yield name, tensor
            continue
        values, scales = quantise_blocks(tensor)
        yield name, values
        yield scale_name(name), scales
