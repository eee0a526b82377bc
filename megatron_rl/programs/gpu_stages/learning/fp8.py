"""FP8 of Transformer Engine against bf16, by each recipe that the GPU offers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from megatron_rl.config import Fp8Config
from megatron_rl.hf_folder import copy_companions
from megatron_rl.learner.device.parallel import Parallel, shut_down_parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.device.precision import Device, offered_recipes
from megatron_rl.programs.builders.hardware import describe_precisions, installed_version
from megatron_rl.programs.gpu_stages.learning.layers import model_folder
from megatron_rl.programs.gpu_stages.learning.policy import (
    UNCLIPPED,
    gradients_of,
    learner_of,
    logprobs_of,
    loss_change,
    make_sequences,
    mean_error,
    open_alone,
    relative_error,
)
from megatron_rl.programs.gpu_stages.tolerances import LEARNT
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place

_FORWARD = Limit(
    at_most=0.3,
    reason="e4m3 keeps 4 bits, 6 %, of each factor, and errors of a product partly cancel; a wrong "
    "scale is off by more than 1",
)
_BACKWARD = Limit(
    at_most=0.5,
    reason="gradients keep 3 bits, 12 %, in e5m2, and pass through all layers; gradients without "
    "relation to the right ones are off by more than 1",
)
_LARGEST_E4M3 = 448.0
_TWIN = "rounded weights"
"""Recipe of the CPU twin."""


def check(place: Place) -> Outcome:
    """Compare every recipe with bf16, and have it learn."""
    platform, parallel = open_alone()
    device = Device(
        capability=platform.capability, te_version=installed_version("transformer-engine")
    )
    recipes = [_TWIN] if place.is_rehearsal else offered_recipes(device)
    if not recipes:
        shut_down_parallel()
        return Outcome(skipped=_why_not(device))
    folder, sequences = model_folder(place), make_sequences()
    bf16 = learner_of(folder, parallel, platform, optimizer=UNCLIPPED)
    expected = logprobs_of(bf16, sequences), gradients_of(bf16, sequences)
    figures = []
    for recipe in recipes:
        figures += list(_figures(recipe, place, parallel, platform, expected))
    shut_down_parallel()
    twin = "CPU twin: bf16, with weights that were rounded to e4m3, half of what FP8 rounds"
    return Outcome(figures=figures, notes=[twin] if place.is_rehearsal else [])


def _figures(
    recipe: str,
    place: Place,
    parallel: Parallel,
    platform: Platform,
    expected: tuple[torch.Tensor, dict[str, torch.Tensor]],
) -> Iterator[Figure]:
    folder, sequences = model_folder(place), make_sequences()
    settings: dict[str, Any] = {"precision": "fp8"}
    if recipe == _TWIN:
        folder, settings = _rounded(folder, place.shared / "rounded"), {}
    else:
        settings["fp8"] = Fp8Config(recipe=recipe)  # type: ignore[arg-type]
    learner = learner_of(folder, parallel, platform, optimizer=UNCLIPPED, **settings)
    logprobs_of(learner, sequences)  # gives the delayed recipe its first maxima
    yield Figure(
        name=f"{recipe}: log-probs, mean difference from bf16",
        value=mean_error(logprobs_of(learner, sequences), expected[0]),
        limit=_FORWARD,
    )
    yield Figure(
        name=f"{recipe}: gradients, relative difference from bf16",
        value=relative_error(gradients_of(learner, sequences), expected[1]),
        limit=_BACKWARD,
    )
    yield Figure(
        name=f"{recipe}: change of the loss in 8 steps",
        value=loss_change(learner_of(folder, parallel, platform, **settings), sequences),
        limit=LEARNT,
    )


def _why_not(device: Device) -> str:
    engine = device.te_version
    has = "no Transformer Engine" if engine is None else f"Transformer Engine {engine}"
    return f"FP8 needs compute capability 8.9 and Transformer Engine; this GPU and {has} offer " + (
        describe_precisions(device)
    )


def _rounded(source: Path, folder: Path) -> Path:
    """Write a copy of a model folder whose matrices hold what e4m3 keeps, scaled by tensor."""
    folder.mkdir()
    copy_companions(source, folder)
    weights = load_file(source / "model.safetensors")
    for name, weight in weights.items():
        if weight.dim() == 2 and "embed" not in name and "lm_head" not in name:
            scale = _LARGEST_E4M3 / weight.abs().max()
            weights[name] = (weight * scale).to(torch.float8_e4m3fn).float() / scale
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
