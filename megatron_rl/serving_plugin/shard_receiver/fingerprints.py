"""Fingerprints of tensors: 64 bits that tell both contents and places, computed where they lie."""

import torch
from torch import Tensor

_CHUNK_BYTES = 4 * 2**20
_WORD = 8
# Odd, as a multiplication that can be undone: those of splitmix64, and the golden ratio for places.
_PLACE = 0x9E3779B97F4A7C15 - 2**64
_STEPS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


@torch.no_grad()
def fingerprint(tensor: Tensor) -> int:
    """Return a 64-bit number of a tensor's bytes in order, whatever its type and strides.

    Words of 8 bytes are mixed with their places and added up modulo 2**64, with the number of
    bytes. A tensor and its parts laid end to end have the same number. The mixing of a word can be
    undone, so no change of a single one leaves the number as it is; nor, but by chance, does an
    exchange of two, however alike they are.
    """
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    total = data.numel()
    for start in range(0, data.numel(), _CHUNK_BYTES):
        words = _words(data[start : start + _CHUNK_BYTES])
        first = start // _WORD
        places = torch.arange(first + 1, first + 1 + words.numel(), device=words.device)
        total += int(_mixed(words, places).sum())
    return total % 2**64


def _mixed(words: Tensor, places: Tensor) -> Tensor:
    words += places.mul_(_PLACE)
    for shift, factor in _STEPS:
        # Shifts of int64 repeat the sign, which the mask takes away.
        words ^= (words >> shift).bitwise_and_(2 ** (64 - shift) - 1)
        words *= factor
    return words


def _words(data: Tensor) -> Tensor:
    """Return the bytes as int64, zeros after the last: a copy, since they may not be aligned."""
    words = torch.zeros(-(-data.numel() // _WORD), dtype=torch.int64, device=data.device)
    words.view(torch.uint8)[: data.numel()] = data
    return words
