"""Fingerprints of tensors: 64 bits that tell both contents and places, computed where they lie."""

import torch
from torch import Tensor

_CHUNK_BYTES = 4 * 2**20
_WORD = 8
# Odd, so that no single change of a word can leave the sum as it is.
_FACTOR = 0x9E3779B97F4A7C15 - 2**64


@torch.no_grad()
def fingerprint(tensor: Tensor) -> int:
    """Return a 64-bit number of a tensor's bytes in order, whatever its type and strides.

    Words of 8 bytes are multiplied with odd numbers that grow with their place, and added up modulo
    2**64. A tensor and its parts laid end to end have the same number.
    """
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    total, multiplier = 0, _FACTOR
    for start in range(0, data.numel(), _CHUNK_BYTES):
        words = _words(data[start : start + _CHUNK_BYTES])
        first = start // _WORD
        places = torch.arange(first, first + words.numel(), device=words.device)
        total += int(((2 * places + 1) * multiplier * words).sum())
    return total % 2**64


def _words(data: Tensor) -> Tensor:
    """Return the bytes as int64, zeros after the last: a copy, since they may not be aligned."""
    words = torch.zeros(-(-data.numel() // _WORD), dtype=torch.int64, device=data.device)
    words.view(torch.uint8)[: data.numel()] = data
    return words
