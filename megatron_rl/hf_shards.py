"""Safetensors files written tensor by tensor, for a model whose shapes are known.

The safetensors package writes a file from all its tensors at once. The format is a header with the
position of every tensor, then the tensors (https://github.com/huggingface/safetensors), so a file
can be written in sequence when shapes are known before weights.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_rl.run_dir import write_json

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}

Shapes = Mapping[str, tuple[int, ...]]
TypeOf = Callable[[str], torch.dtype]
"""Type of the tensor of a name."""


def plan_shards(shapes: Shapes, *, type_of: TypeOf, max_shard_bytes: int) -> dict[str, list[str]]:
    """Return the tensors of each file, in order; a file holds at least one tensor.

    Args:
        shapes: shapes of all tensors of the model.
        max_shard_bytes: a new file is begun when the next tensor would exceed this.
    """
    shards: list[list[str]] = []
    size = 0
    for name, shape in shapes.items():
        num_bytes = math.prod(shape) * type_of(name).itemsize
        if not shards or size + num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += num_bytes
    if len(shards) == 1:
        return {_SINGLE: shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": names
        for number, names in enumerate(shards, start=1)
    }


def write_shard(
    path: Path,
    names: Sequence[str],
    shapes: Shapes,
    read: Callable[[str], Tensor],
    *,
    type_of: TypeOf,
) -> None:
    """Write one file, reading tensors one at a time.

    Args:
        read: returns the tensor of a name, in its shape and type.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(_header(names, shapes, type_of))
        for name in names:
            tensor = read(name).detach().cpu().contiguous()
            assert tensor.shape == shapes[name], (name, tensor.shape)
            assert tensor.dtype == type_of(name), (name, tensor.dtype)
            file.write(tensor.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_index(
    folder: Path, shards: Mapping[str, Sequence[str]], shapes: Shapes, *, type_of: TypeOf
) -> None:
    """Write the index file of a model in several files."""
    if list(shards) == [_SINGLE]:
        return
    total = sum(math.prod(shape) * type_of(name).itemsize for name, shape in shapes.items())
    weight_map = {name: file for file, names in shards.items() for name in names}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(folder / _INDEX, index)


def _header(names: Sequence[str], shapes: Shapes, type_of: TypeOf) -> bytes:
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name in names:
        end = start + math.prod(shapes[name]) * type_of(name).itemsize
        fields[name] = {
            "dtype": _CODES[type_of(name)],
            "shape": list(shapes[name]),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    # Tensors begin at a multiple of 8, with spaces after the header's end.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
