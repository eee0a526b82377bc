"""Convert between Hugging Face folders and Megatron checkpoints, tensor by tensor.

To Megatron, one layer is held at a time (torch keeps what it has put into a file until the file is
complete); from Megatron, one parameter.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_rl.config import RopeScalingConfig, read_resolved
from megatron_rl.conversion.families import (
    float32_tensors,
    read_model_spec,
    read_scaled_fields,
)
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.conversion.manifest import Manifest
from megatron_rl.conversion.progress import finish_file, resume
from megatron_rl.errors import ConfigError, ModelError
from megatron_rl.hf_folder import WeightReader, copy_companions
from megatron_rl.hf_shards import plan_shards, write_index, write_shard
from megatron_rl.learner.checkpoint.abstract_model import AbstractModel, open_abstract_model
from megatron_rl.learner.checkpoint.steps import complete_steps, latest_step, step_folder
from megatron_rl.learner.checkpoint.weights_reader import CheckpointWeights, stored_dtype
from megatron_rl.learner.checkpoint.weights_writer import (
    finish_checkpoint,
    plan_files,
    write_file,
)
from megatron_rl.model_spec import ModelSpec
from megatron_rl.programs.builders.model import check_model_folder
from megatron_rl.programs.offline.conversion_target import (
    Conversion,
    Recorded,
    finished_target,
    partial_of,
    put_in_place,
    verify,
)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STATED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
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
    stated = check_model_folder(source, spec)
    free = {name: kind for name, kind in stated.items() if name not in float32_tensors(spec)}
    chosen = _folder_dtype(source, free) if dtype is None else dtype
    conversion = Conversion(source=source, index=source / "config.json", dtype=chosen)
    manifest = finished_target(conversion, target)
    if manifest is not None and not is_verified:
        return manifest
    with open_abstract_model(spec, dtype=_DTYPES[chosen], cpu_threads=cpu_threads) as model:
        folder = partial_of(target) if manifest is None else target
        made = _make_checkpoint(conversion, folder, model, read) if manifest is None else manifest
        if is_verified:
            verify(made, CheckpointWeights(step_folder(folder, _STEP), model))
    if manifest is None:
        put_in_place(folder, target, made)
    return made


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
            :func:`find_model`.
        dtype: of the weights written; None keeps the checkpoint's.
        is_verified: read the folder back and compare every tensor, byte for byte.

    Raises:
        ModelError: the checkpoint's tensors disagree with config.json, or read back otherwise.
        CheckpointError: the checkpoint is damaged.
        ConfigError: the target holds something else, or no config.json is found.
    """
    folder = _chosen_step(checkpoint)
    stored = stored_dtype(folder)
    model = find_model(folder) if model_folder is None else CheckpointModel(folder=model_folder)
    spec = read_model_spec(model.folder, model.scaling)
    chosen = str(stored).removeprefix("torch.") if dtype is None else dtype
    conversion = Conversion(source=folder, index=folder / ".metadata", dtype=chosen)
    manifest = finished_target(conversion, target)
    made, made_in = manifest, target
    if made is None:
        made_in = partial_of(target)
        with open_abstract_model(spec, dtype=stored, cpu_threads=cpu_threads) as opened:
            read = CheckpointWeights(folder, opened)
            made = _make_folder(conversion, made_in, spec, read, model, max_shard_bytes)
    if is_verified:
        _verify_folder(made, made_in)
    if manifest is None:
        put_in_place(made_in, target, made)
    return made


def summary(manifest: Manifest, target: Path) -> str:
    """Return what lies in ``target``, in one line."""
    numbers = sum(math.prod(record.shape) for record in manifest.tensors.values())
    return (
        f"{target}: {len(manifest.tensors)} tensors, {numbers:,} numbers in {manifest.dtype}, "
        f"from {manifest.source}"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointModel:
    """Model folder that a checkpoint's weights belong to."""

    folder: Path
    scaling: RopeScalingConfig | None = None
    """Of the run that made the checkpoint, in place of that of the folder."""


def find_model(step: Path) -> CheckpointModel:
    """Return the model of a checkpoint: of the run that holds it, or of a converted folder.

    Raises:
        ConfigError: neither is above the checkpoint.
    """
    for folder in list(step.absolute().parents)[:2]:
        path = folder / "config.json"
        if path.exists():
            if "model_type" in json.loads(path.read_text()):
                return CheckpointModel(folder=folder)
            model = read_resolved(path).model
            return CheckpointModel(folder=model.path, scaling=model.rope_scaling)
    raise ConfigError(f"{step}: no config.json of a run or model above it; name one with --model")


def _chosen_step(checkpoint: Path) -> Path:
    if (checkpoint / ".metadata").exists():
        return checkpoint
    step = latest_step(checkpoint)
    if step is None:  # a converted folder has one step and no pointer to it
        steps = complete_steps(checkpoint)
        return step_folder(checkpoint, steps[-1]) if steps else checkpoint
    return step_folder(checkpoint, step)


def _make_checkpoint(
    conversion: Conversion, target: Path, model: AbstractModel, read: WeightReader
) -> Manifest:
    plan, step = plan_files(model), step_folder(target, _STEP)
    weights = Recorded(read, _type_of(model.spec, conversion))
    finished = resume(target, conversion.identity())
    for name in plan.files:
        path = f"{step.name}/{name}"
        if path not in finished:
            placement = write_file(plan, name, weights, step)
            finished[path] = finish_file(target, path, weights.taken(), placement)
    placements = {name: finished[f"{step.name}/{name}"].placement for name in plan.files}
    finish_checkpoint(plan, placements, step)
    copy_companions(conversion.source, target)
    return conversion.manifest(finished.values(), dict(tensor_shapes(model.spec)))


def _make_folder(
    conversion: Conversion,
    target: Path,
    spec: ModelSpec,
    read: CheckpointWeights,
    model: CheckpointModel,
    max_shard_bytes: int,
) -> Manifest:
    type_of, shapes = _type_of(spec, conversion), dict(tensor_shapes(spec))
    shards = plan_shards(shapes, type_of=type_of, max_shard_bytes=max_shard_bytes)
    weights = Recorded(read, type_of)
    scaling = model.scaling
    changes = {} if scaling is None else read_scaled_fields(model.folder, scaling)
    cut = {
        "max_shard_bytes": max_shard_bytes,
        "model": str(model.folder.resolve()),
        "config_changes": changes,
    }
    finished = resume(target, conversion.identity() | cut)
    for name, tensors in shards.items():
        if name not in finished:
            write_shard(target / name, tensors, shapes, weights, type_of=type_of)
            finished[name] = finish_file(target, name, weights.taken(), None)
    write_index(target, shards, shapes, type_of=type_of)
    copy_companions(model.folder, target, changes)
    return conversion.manifest(finished.values(), shapes)


def _verify_folder(manifest: Manifest, folder: Path) -> None:
    """Compare a Hugging Face folder with what was converted, and look for other tensors in it."""
    check_model_folder(folder, read_model_spec(folder))
    verify(manifest, WeightReader(folder))


def _type_of(spec: ModelSpec, conversion: Conversion) -> Callable[[str], torch.dtype]:
    """Return the type to write each tensor in: that of the conversion, but for a few."""
    always_float32 = float32_tensors(spec)
    chosen = _DTYPES[conversion.dtype]
    return lambda name: torch.float32 if name in always_float32 else chosen


def _folder_dtype(folder: Path, stated: Mapping[str, str]) -> str:
    found = {dtype: name for name, dtype in sorted(stated.items(), reverse=True)}
    (dtype, *others) = found
    if others or dtype not in _STATED:
        kinds = ", ".join(f"{dtype} ({name})" for dtype, name in found.items())
        raise ModelError(f"{folder}: tensors are {kinds}; choose one type with --dtype")
    return _STATED[dtype]
