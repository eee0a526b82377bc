"""Hugging Face model folders, read and written: safetensors, config, tokenizer.

torch is imported only where a tensor is made: a launcher outside the programs' images has no torch,
but checks names and shapes.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from megatron_rl.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_CONFIG = "config.json"
_READABLE = 0o644
_COPY_AGAIN = "copy the folder again"
Framework = Literal["pt", "np"]
"""Library whose tensors safetensors returns; headers are the same with either."""
# A manifest lists the hashes of weights, so it goes where they go.
_WEIGHT_FILES = (
    "manifest.json",
    "*.safetensors",
    "*.index.json",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.gguf",
)


_CONVERT = (
    "convert it once with transformers: "
    'AutoModelForCausalLM.from_pretrained("{folder}", dtype="auto").save_pretrained("NEW_FOLDER"), '
    'the same with AutoTokenizer, and set model.path = "NEW_FOLDER"'
)
_MERGE = (
    "merge it into its base model once with peft: "
    'AutoPeftModelForCausalLM.from_pretrained("{folder}").merge_and_unload()'
    '.save_pretrained("NEW_FOLDER"), save the tokenizer there too, and set '
    'model.path = "NEW_FOLDER"'
)
_RELEASE = "name the folder of the model's release for transformers, with model.safetensors"
# Pattern of a file, what it is, and the remedy; the first that is there decides.
_OTHER_FORMATS = (
    ("adapter_config.json", "an adapter, which is no model by itself", _MERGE),
    ("adapter_model.*", "an adapter, which is no model by itself", _MERGE),
    (
        "model-*-of-*.safetensors",
        f"one of several files whose list {_INDEX} is missing",
        _COPY_AGAIN,
    ),
    ("pytorch_model*.bin", "pickled weights, which can run code and are not read", _CONVERT),
    ("*.bin.index.json", "the list of pickled weights, which are not read", _CONVERT),
    ("tf_model*.h5", "weights for TensorFlow", _RELEASE),
    ("flax_model*.msgpack", "weights for Flax", _RELEASE),
    ("*.gguf", "weights for llama.cpp, mostly quantised", _RELEASE),
    ("consolidated*", "weights in their author's own format", _RELEASE),
    ("*.safetensors", f"neither {_SINGLE} nor named by {_INDEX}", _RELEASE),
)


class WeightReader:
    """Tensors of a Hugging Face folder by name, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file_of = _index(folder)

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors in the folder."""
        return frozenset(self._file_of)

    def __call__(self, name: str) -> Tensor:
        """Return the tensor ``name``; raise ModelError when the folder does not have it."""
        if name not in self._file_of:
            raise ModelError(f"{self._folder}: tensor {name} is missing from the safetensors files")
        with self._open(self._file_of[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def shapes_and_dtypes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and type ("F32") of every tensor, from the headers of the files alone."""
        names_in: dict[str, list[str]] = {}
        for name, file_name in self._file_of.items():
            names_in.setdefault(file_name, []).append(name)
        stated = {}
        for file_name, names in names_in.items():
            with self._open(file_name, framework="np") as file:
                for name in names:
                    part = file.get_slice(name)
                    stated[name] = tuple(part.get_shape()), part.get_dtype()
        return stated

    @contextmanager
    def _open(self, file_name: str, *, framework: Framework) -> Iterator[Any]:
        path = self._folder / file_name
        if not path.exists():
            raise ModelError(
                f"{path}: cannot be read: missing, though {_INDEX} names it; {_COPY_AGAIN}"
            )
        with _readable(path, framework=framework) as file:
            yield file


@contextmanager
def _readable(path: Path, *, framework: Framework) -> Iterator[Any]:
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; {_COPY_AGAIN}") from error


def check_no_checkpoint(folder: Path) -> None:
    """Raise ModelError, with the command that converts it, when the folder is one of Megatron's."""
    is_step = (folder / ".metadata").exists()
    if not has_weights(folder) and (is_step or any(folder.glob("step_*/.metadata"))):
        raise ModelError(
            f"{folder}: is a Megatron checkpoint, no Hugging Face folder; make one with "
            f"tools/convert_megatron_to_hf.py {folder} NEW_FOLDER and name that"
        )


def check_weight_format(folder: Path) -> None:
    """Raise ModelError, with the remedy, for a folder whose only weights are of another format."""
    if has_weights(folder):
        return
    for pattern, what, remedy in _OTHER_FORMATS:
        found = sorted(path.name for path in folder.glob(pattern))
        if found:
            raise ModelError(
                f"{folder}: no safetensors of a whole model; {found[0]} is {what}; "
                + remedy.replace("{folder}", str(folder))
            )


def has_weights(folder: Path) -> bool:
    """Return whether the folder holds safetensors."""
    return (folder / _INDEX).exists() or (folder / _SINGLE).exists()


def stop_token_ids(folder: Path) -> frozenset[int]:
    """Return the tokens at which a server of this folder ends a completion.

    Those of config.json and of generation_config.json together, as SGLang reads them. SGLang also
    stops at the tokenizer's end-of-sequence token.
    """
    found: set[int] = set()
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            stated = dict(json.loads(path.read_text())).get("eos_token_id")
            found |= set() if stated is None else {stated} if isinstance(stated, int) else {*stated}
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{path}: its eos_token_id cannot be read: {error!r}") from error
    return frozenset(found)


def write_hf_folder(
    target: Path,
    weights: Iterable[tuple[str, Tensor]],
    *,
    source: Path,
    max_shard_bytes: int,
    config_changes: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Write a model folder that transformers and SGLang load; it appears whole or not at all.

    Args:
        target: the folder; an existing one is replaced.
        weights: (Hugging Face name, tensor) pairs, consumed one shard at a time.
        source: folder whose config, tokenizer and generation config are copied.
        max_shard_bytes: a new file is begun when the next tensor would exceed this.
        config_changes: fields of config.json that are others than in ``source``.

    Returns:
        Bytes of the weights.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weight_map, total = _write_shards(partial, weights, max_shard_bytes)
    _name_shards(partial, weight_map, total)
    copy_companions(source, partial, config_changes)
    _replace_folder(target, partial)
    return total


def copy_companions(
    source: Path, target: Path, config_changes: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Copy everything of a model folder but its weights, with some fields of config.json changed.

    Without changes config.json is copied byte for byte.
    """
    for path in source.iterdir():
        is_weight = any(path.match(pattern) for pattern in _WEIGHT_FILES)
        if path.is_file() and not is_weight:
            shutil.copyfile(path, target / path.name)
    if config_changes:
        config = json.loads((source / _CONFIG).read_text(encoding="utf-8"))
        text = json.dumps({**config, **config_changes}, indent=2)
        (target / _CONFIG).write_text(f"{text}\n", encoding="utf-8")


def _replace_folder(target: Path, finished: Path) -> None:
    """Replace ``target`` by ``finished``; ``target`` never exists in part."""
    replaced = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.replace(replaced)
    finished.replace(target)
    shutil.rmtree(replaced, ignore_errors=True)


def _index(folder: Path) -> dict[str, str]:
    index = folder / _INDEX
    if index.exists():
        try:
            return dict(json.loads(index.read_text())["weight_map"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{index}: cannot be read: {error!r}") from error
    path = folder / _SINGLE
    if not path.exists():
        check_no_checkpoint(folder)
        check_weight_format(folder)
        raise ModelError(
            f"{folder}: no safetensors weights; {_SINGLE}, or shards with {_INDEX}, belong there, "
            'and model.init = "random" is for a model that is trained from scratch'
        )
    with _readable(path, framework="np") as file:
        return dict.fromkeys(file.keys(), _SINGLE)


def _write_shards(
    folder: Path, weights: Iterable[tuple[str, Tensor]], max_shard_bytes: int
) -> tuple[dict[str, int], int]:
    """Write numbered shards; return which shard holds each tensor, and the bytes of all."""
    shard_of: dict[str, int] = {}
    shard: dict[str, Tensor] = {}
    number, size, total = 1, 0, 0
    for name, tensor in weights:
        bytes_ = tensor.numel() * tensor.element_size()
        if shard and size + bytes_ > max_shard_bytes:
            _write_shard(folder / f"{number}.safetensors", shard)
            shard, number, size = {}, number + 1, 0
        # A copy, since a learner may reuse the memory behind a yielded tensor.
        shard[name] = tensor.detach().to("cpu", copy=True).contiguous()
        shard_of[name] = number
        size, total = size + bytes_, total + bytes_
    _write_shard(folder / f"{number}.safetensors", shard)
    return shard_of, total


def _write_shard(path: Path, shard: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(shard, path, metadata={"format": "pt"})
    # safetensors makes a file that only its owner can read; other users may read a model.
    path.chmod(_READABLE)


def _name_shards(folder: Path, shard_of: dict[str, int], total: int) -> None:
    """Give shards the names Hugging Face expects, which tell how many there are."""
    count = max(shard_of.values())
    if count == 1:
        (folder / "1.safetensors").rename(folder / _SINGLE)
        return
    names = {i: f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)}
    for number, name in names.items():
        (folder / f"{number}.safetensors").rename(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {tensor: names[number] for tensor, number in shard_of.items()},
    }
    (folder / _INDEX).write_text(json.dumps(index, indent=1))


def random_tensor(name: str, shape: tuple[int, ...], *, std: float, seed: int) -> Tensor:
    """Return the float32 random weight of ``name``: ones for norms, zeros for biases, else normal.

    Depends on seed, name and shape only, so that every layout starts from the same model.
    """
    import torch

    if name.endswith((".bias", "_bias")):
        return torch.zeros(shape)
    if len(shape) == 1 and "norm" in name:
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(_name_seed(name, seed))
    return torch.randn(shape, generator=generator) * std


def _name_seed(name: str, seed: int) -> int:
    return zlib.crc32(f"{seed}:{name}".encode())
