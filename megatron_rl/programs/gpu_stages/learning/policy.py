"""Policy of the numerical stages: sizes that fused kernels and FP8 accept, and its learners."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_rl.config import Fp8Config, LossScaleConfig, OptimizerConfig
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.learner.device.parallel import (
    Parallel,
    RankInfo,
    initialize_parallel,
)
from megatron_rl.learner.device.platform import CudaPlatform, Platform, detect_platform
from megatron_rl.learner.learner import Learner, LearnerSettings
from megatron_rl.programs.gpu_stages.learning.layouts import ALONE
from megatron_rl.programs.gpu_stages.shapes import Shape
from megatron_rl.sequences import Sequences

SHAPE = Shape(name="numerical", sizes=(4, 256, 8, 4, 512, 1000), std=0.05)
LENGTHS = [23, 40, 9, 120, 33, 64]
TEMPERATURE = 0.7
SETTINGS: dict[str, Any] = {
    "dtype": "bfloat16",
    "precision": "bf16",
    "fp8": Fp8Config(),
    "loss_scale": LossScaleConfig(),
    "token_budget": 128,
    "logprob_chunk_tokens": 16,
    "fp32_lm_head": False,
    "temperature": TEMPERATURE,
    "objective": None,
    "optimizer": OptimizerConfig(
        lr=1e-3,
        min_lr=None,
        warmup_steps=0,
        beta1=0.9,
        beta2=0.95,
        eps=1e-8,
        weight_decay=0.01,
        clip_grad=1.0,
    ),
    "total_steps": 8,
    "overlap_grad_reduce": False,
    "overlap_param_gather": False,
    "weight_batch_bytes": 2**20,
    "megatron": {},
}
UNCLIPPED = SETTINGS["optimizer"].model_copy(update={"clip_grad": 0.0})


class TorchLayersOnCuda(CudaPlatform):
    """The layers that CPUs use, on a GPU that has Transformer Engine."""

    def block_spec(self, config: Any, *, vp_stage: int | None) -> Any:
        """Torch-native layers."""
        from megatron_rl.learner.device.torch_layers import torch_block_spec

        return torch_block_spec(config, vp_stage=vp_stage)

    def fused_fields(
        self, *, dtype: torch.dtype, is_mixture: bool, has_latents: bool
    ) -> dict[str, Any]:
        """None."""
        return {}


def with_torch_layers(platform: Platform) -> Platform:
    """Return the platform with torch's layers; on a CPU there are no others."""
    if isinstance(platform, CudaPlatform):
        return TorchLayersOnCuda(local_rank=platform.local_rank)
    return platform


def open_alone() -> tuple[Platform, Parallel]:
    """Join groups of this one rank on the machine's platform."""
    platform = detect_platform(cpu_threads=1, local_rank=0)
    platform.install()
    place = RankInfo(rank=0, world_size=1, local_rank=0)
    return platform, initialize_parallel(place, platform, ALONE, seed=0)


def make_sequences() -> Sequences:
    """Return sequences that share rows, and whose rows are no multiples of 16."""
    rng, total = np.random.default_rng(0), sum(LENGTHS)
    return Sequences(
        token_ids_T=rng.integers(0, SHAPE.vocab_size, total),
        offsets=np.cumsum([0, *LENGTHS]),
        loss_mask_T=np.ones(total, dtype=bool),
        behavior_logprobs_T=np.zeros(total, dtype=np.float32),
        advantages_N=np.ones(len(LENGTHS), dtype=np.float32),
        weights_N=np.full(len(LENGTHS), 1 / (total - len(LENGTHS)), dtype=np.float32),
    )


def learner_of(folder: Path, parallel: Parallel, platform: Platform, **changes: Any) -> Learner:
    """Build a learner of the Hugging Face folder's weights."""
    return Learner(
        read_model_spec(folder),
        LearnerSettings(**(SETTINGS | changes)),
        parallel,
        platform,
        pretrained=folder,
        seed=0,
    )


def logprobs_of(learner: Learner, sequences: Sequences) -> torch.Tensor:
    """Return the float32 log-probs of all tokens but the first of each sequence, end to end."""
    return torch.cat(learner.logprobs(sequences)).float()


def gradients_of(learner: Learner, sequences: Sequences) -> dict[str, torch.Tensor]:
    """Return the float32 gradient of every parameter for a step; clipping must be off."""
    learner.update_supervised(sequences)
    return {name: gradient.clone() for name, gradient in learner.gradients()}


def loss_change(learner: Learner, sequences: Sequences, *, steps: int = 8) -> float:
    """Return by how much the loss moved from the first step to the last."""
    losses = [learner.update_supervised(sequences)["sft/loss"] for _ in range(steps)]
    return losses[-1] - losses[0]


def mean_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the mean |a - b|."""
    return (actual - expected).abs().mean().item()


def relative_error(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference of all gradients over the norm of what is expected."""
    assert actual.keys() == expected.keys()
    difference = sum(float((actual[name] - expected[name]).square().sum()) for name in expected)
    norm = sum(float(gradient.square().sum()) for gradient in expected.values())
    return (difference / norm) ** 0.5
