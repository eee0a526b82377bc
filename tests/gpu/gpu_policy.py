"""The policy that GPU tests train: sizes that fused kernels and FP8 accept, on GPU and host."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from megatron_rl.config import Fp8Config, LossScaleConfig, OptimizerConfig
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.learner import Learner, LearnerSettings
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.sequences import Sequences

ALONE = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
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


def reference_model() -> transformers.Qwen3ForCausalLM:
    """Return the policy in float32 on the host, made up from a fixed seed."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=1000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=512,
        initializer_range=0.05,
        tie_word_embeddings=False,
    )
    return transformers.Qwen3ForCausalLM(config).float().eval()


def make_sequences() -> Sequences:
    """Return sequences that share rows, and whose rows are no multiples of 16."""
    rng, total = np.random.default_rng(0), sum(LENGTHS)
    return Sequences(
        token_ids_T=rng.integers(0, 1000, total),
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
