"""Between Hugging Face folders and Megatron checkpoints, tensor by tensor, with a manifest.

A target appears whole: it is made under another name and renamed after its manifest is written. One
that is there already with the same source and type is kept as it is.
"""

import json
import logging
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_rl.config import read_resolved
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.conversion.families.shapes import check_tensors
from megatron_rl.conversion.manifest import (
    Manifest,
    TensorRecord,
    check_against,
    read_manifest,
    record_of,
    write_manifest,
)
from megatron_rl.errors import ConfigError, ModelError
from megatron_rl.hf_folder import WeightReader, copy_companions, write_hf_folder
from megatron_rl.learner.checkpoint_steps import complete_steps, latest_step, step_folder
from megatron_rl.learner.hf_weights import load_weights, named_weights
from megatron_rl.learner.weights_checkpoint import (
    WholeModel,
    open_whole_model,
    read_weights,
    stored_dtype,
    write_weights,
)
from megatron_rl.run_dir import write_json

_LOG = logging.getLogger(__name__)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_STATED = {"F32": "float32", "BF16": "bfloat16"}
_STEP = 0


def huggingface_to_megatron(
    source: Path, target: Path, *, dtype: str | None, is_verified: bool, cpu_threads: int
) -> Manifest:
    """Write a Hugging Face folder's weights as a Megatron checkpoint, ``target/step_000000``.

    config.json, tokenizer and the like lie beside it.

    Args:
        dtype: of the weights written; None keeps the folder's.
        is_verified: read the checkpoint back and compare every tensor, byte for byte.

    Raises:
        ModelError: the folder's tensors disagree with its config.json, or read back otherwise.
        ConfigError: the target holds something else.
    """
    spec, read = read_model_spec(source), WeightReader(source)
    stated = {name: read.shape_and_dtype(name) for name in read.names}
    try:
        check_tensors(spec, {name: shape for name, (shape, _) in stated.items()})
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    chosen = _folder_dtype(source, stated) if dtype is None else dtype
    index = source / "config.json"
    finished = _finished(source, index, target, chosen)
    if finished is not None and not is_verified:
        return finished
    with open_whole_model(spec, dtype=_DTYPES[chosen], cpu_threads=cpu_threads) as model:
        if finished is not None:
            _verify_checkpoint(finished, model, target)
            return finished
        partial = _partial(target)
        load_weights(model.chunks, spec, model.parallel, read)
        records = {name: record_of(tensor) for name, tensor in _named(model)}
        write_weights(model, step_folder(partial, _STEP))
        copy_companions(source, partial)
        _state_dtype(partial, chosen)
        manifest = _manifest(source, index, chosen, records)
        if is_verified:
            _verify_checkpoint(manifest, model, partial)
    _finish(partial, target, manifest)
    return manifest


def megatron_to_huggingface(
    checkpoint: Path,
    target: Path,
    *,
    model_folder: Path | None,
    dtype: str | None,
    max_shard_bytes: int,
    is_verified: bool,
    cpu_threads: int,
) -> Manifest:
    """Write a checkpoint of any layout as a Hugging Face folder.

    Args:
        checkpoint: a ``step_NNNNNN`` folder, or the folder of the steps for the latest.
        model_folder: whose config.json and tokenizer are taken; None finds it, see
            :func:`find_model_folder`.
        dtype: of the weights written; None keeps the checkpoint's.
        is_verified: read the folder back and compare every tensor, byte for byte.

    Raises:
        ModelError: the checkpoint's tensors disagree with config.json, or read back otherwise.
        CheckpointError: the checkpoint is damaged.
        ConfigError: the target holds something else, or no config.json is found.
    """
    folder = _chosen_step(checkpoint)
    model_folder = find_model_folder(folder) if model_folder is None else model_folder
    spec = read_model_spec(model_folder)
    stored = stored_dtype(folder)
    chosen = str(stored).removeprefix("torch.") if dtype is None else dtype
    index = folder / ".metadata"
    finished = _finished(folder, index, target, chosen)
    if finished is not None:
        if is_verified:
            _verify_folder(finished, target)
        return finished
    partial, records = _partial(target), dict[str, TensorRecord]()
    with open_whole_model(spec, dtype=stored, cpu_threads=cpu_threads) as model:
        read_weights(model, folder)
        weights = _recorded(_cast(_named(model), _DTYPES[chosen]), records)
        write_hf_folder(partial, weights, source=model_folder, max_shard_bytes=max_shard_bytes)
    _state_dtype(partial, chosen)
    manifest = _manifest(folder, index, chosen, records)
    if is_verified:
        _verify_folder(manifest, partial)
    _finish(partial, target, manifest)
    return manifest


def summary(manifest: Manifest, target: Path) -> str:
    """Return what lies in ``target``, in one line."""
    numbers = sum(math.prod(record.shape) for record in manifest.tensors.values())
    return (
        f"{target}: {len(manifest.tensors)} tensors, {numbers:,} numbers in {manifest.dtype}, "
        f"from {manifest.source}"
    )


def find_model_folder(step: Path) -> Path:
    """Return the model of a checkpoint: of the run that holds it, or of a converted folder.

    Raises:
        ConfigError: neither is above the checkpoint.
    """
    for folder in list(step.absolute().parents)[:2]:
        path = folder / "config.json"
        if path.exists():
            is_model = "model_type" in json.loads(path.read_text())
            return folder if is_model else read_resolved(path).model.path
    raise ConfigError(f"{step}: no config.json of a run or model above it; name one with --model")


def _chosen_step(checkpoint: Path) -> Path:
    if (checkpoint / ".metadata").exists():
        return checkpoint
    step = latest_step(checkpoint)
    if step is None:  # a converted folder has one step and no pointer to it
        steps = complete_steps(checkpoint)
        return step_folder(checkpoint, steps[-1]) if steps else checkpoint
    return step_folder(checkpoint, step)


def _named(model: WholeModel) -> Iterator[tuple[str, Tensor]]:
    return named_weights(model.chunks, model.spec, model.parallel)


def _cast(
    weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in weights:
        yield name, tensor.to(dtype)


def _recorded(
    weights: Iterable[tuple[str, Tensor]], records: dict[str, TensorRecord]
) -> Iterator[tuple[str, Tensor]]:
    """Pass the weights on, leaving a record of each."""
    for name, tensor in weights:
        records[name] = record_of(tensor)
        yield name, tensor


def _folder_dtype(folder: Path, stated: Mapping[str, tuple[Any, str]]) -> str:
    found = {dtype: name for name, (_, dtype) in sorted(stated.items(), reverse=True)}
    (dtype, *others) = found
    if others or dtype not in _STATED:
        kinds = ", ".join(f"{dtype} ({name})" for dtype, name in found.items())
        raise ModelError(f"{folder}: tensors are {kinds}; choose one type with --dtype")
    return _STATED[dtype]


def _finished(source: Path, index: Path, target: Path, dtype: str) -> Manifest | None:
    """Return the manifest of a target that this very conversion has made, None without a target."""
    if not target.exists():
        return None
    manifest = read_manifest(target)
    if manifest is None:
        raise ConfigError(f"{target}: exists and is no finished conversion; choose another folder")
    wanted = _manifest(source, index, dtype, manifest.tensors)
    if manifest != wanted:
        raise ConfigError(
            f"{target}: made from {manifest.source} in {manifest.dtype} (or that has changed "
            "since); remove it or choose another folder"
        )
    _LOG.info("%s is finished already", target)
    return manifest


def _manifest(
    source: Path, index: Path, dtype: str, tensors: Mapping[str, TensorRecord]
) -> Manifest:
    return Manifest(
        source=str(source.resolve()),
        source_time_ns=index.stat().st_mtime_ns,
        dtype=dtype,
        tensors=tensors,
    )


def _partial(target: Path) -> Path:
    partial = target.with_name(f".{target.name}.converting")
    shutil.rmtree(partial, ignore_errors=True)
    return partial


def _state_dtype(folder: Path, dtype: str) -> None:
    """Say in config.json what the weights are, under the keys that it has for that."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    write_json(path, config | {key: dtype for key in ("dtype", "torch_dtype") if key in config})


def _finish(partial: Path, target: Path, manifest: Manifest) -> None:
    write_manifest(partial, manifest)
    partial.replace(target)


def _verify_checkpoint(manifest: Manifest, model: WholeModel, folder: Path) -> None:
    """Read the checkpoint of a converted folder back into ``model`` and compare every tensor."""
    read_weights(model, step_folder(folder, _STEP))
    for name, tensor in _named(model):
        check_against(manifest, name, tensor)
    _LOG.info("%d tensors read back byte for byte", len(manifest.tensors))


def _verify_folder(manifest: Manifest, folder: Path) -> None:
    """Read a written Hugging Face folder back, compare every tensor, and look for others."""
    read = WeightReader(folder)
    check_tensors(
        read_model_spec(folder), {name: read.shape_and_dtype(name)[0] for name in read.names}
    )
    for name in manifest.tensors:
        check_against(manifest, name, read(name))
    _LOG.info("%d tensors read back byte for byte", len(manifest.tensors))
