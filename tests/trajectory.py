"""Megatron checkpoints as a run leaves them, made from one model without training."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from megatron_rl.learner.checkpoint.steps import step_folder
from megatron_rl.programs.offline.convert import huggingface_to_megatron


def write_trajectory(
    model: Path, checkpoints: Path, steps: Sequence[int], *, spread: float
) -> None:
    """Write a checkpoint for every step, each the model with normal noise of its own.

    The Hugging Face folder each is made from lies beside it, as ``hf_STEP``.

    Args:
        model: Hugging Face folder with one file of weights.
        checkpoints: where they go.
        steps: in ascending order; the last one becomes the latest.
        spread: standard deviation of the noise.
    """
    weights = load_file(model / "model.safetensors")
    generator = torch.Generator().manual_seed(5)
    for step in steps:
        source, made = checkpoints / f"hf_{step}", checkpoints / f"megatron_{step}"
        shutil.copytree(model, source)
        noisy = {
            name: tensor + spread * torch.randn(tensor.shape, generator=generator)
            for name, tensor in weights.items()
        }
        save_file(noisy, source / "model.safetensors", metadata={"format": "pt"})
        huggingface_to_megatron(source, made, dtype=None, is_verified=False, cpu_threads=1)
        shutil.move(step_folder(made, 0), step_folder(checkpoints, step))
    (checkpoints / "latest.json").write_text(json.dumps({"step": steps[-1]}))
