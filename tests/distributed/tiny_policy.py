"""A tiny policy, batches for it, and learners of it at any layout: what the ranks work on."""

import dataclasses
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_rl.algorithm.losses import PolicyObjective
from megatron_rl.batch import Batch
from megatron_rl.config import Fp8Config, LossScaleConfig, OptimizerConfig, resolve_precision
from megatron_rl.conversion.families import model_spec
from megatron_rl.learner.device.parallel import (
    initialize_parallel,
    rank_from_environment,
    shut_down_parallel,
)
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.learner.learner import Learner, LearnerSettings
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.sequences import SamplingSupport, Sequences
from megatron_rl.types import Cursor

SEED = 3
FIRST_SEED = 28
"""Of batches that clip some ratios and not others, and that cut unevenly over two replicas."""
CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 61,  # not divisible by 2: the vocabulary is padded
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
MOE_CONFIG: dict[str, Any] = CONFIG | {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
GEMMA_CONFIG: dict[str, Any] = CONFIG | {
    "model_type": "gemma3_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 20,
    "sliding_window": 7,
    "sliding_window_pattern": 2,
    "tie_word_embeddings": True,
}
SINKS_CONFIG: dict[str, Any] = CONFIG | {
    "model_type": "gpt_oss",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "sliding_window": 12,
    "rope_parameters": {"rope_type": "default", "rope_theta": CONFIG["rope_theta"]},
}
LATENT_CONFIG: dict[str, Any] = CONFIG | {
    "model_type": "deepseek_v2",
    "num_key_value_heads": 4,
    "head_dim": 8,  # what is rotated
    "kv_lora_rank": 20,
    "q_lora_rank": 18,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 14,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 0,
    # Its scores multiply four matrices: at 0.2 transformers' own float32 is 6e-6 from float64. Here
    # no two experts are so close that rounding chooses between them (6e-5 of probability apart).
    "initializer_range": 0.12,
}
CONFIGS = {
    "dense": CONFIG,
    "mixture": MOE_CONFIG,
    "two rotations": GEMMA_CONFIG,
    "latents": LATENT_CONFIG,
    "sinks": SINKS_CONFIG,
}
"""By kind of model."""
SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "precision": "fp32",
    "fp8": Fp8Config(),
    "loss_scale": LossScaleConfig(),
    "token_budget": 64,
    "logprob_chunk_tokens": 16,
    "fp32_lm_head": False,
    "temperature": 0.8,
    "objective": PolicyObjective(
        loss="magistral",
        clip_low=0.2,
        clip_high=0.28,
        log_ratio_bound=20.0,
        correction=None,
        kl_coefficient=0.0,
        entropy_coefficient=0.0,
    ),
    "optimizer": OptimizerConfig(
        lr=1e-2,
        min_lr=1e-3,
        warmup_steps=2,
        beta1=0.9,
        beta2=0.95,
        eps=1e-6,
        weight_decay=0.1,
        clip_grad=0.05,
    ),
    "total_steps": 8,
    "overlap_grad_reduce": False,
    "overlap_param_gather": False,
    "weight_batch_bytes": 10_000,  # several batches, and an embedding near the limit
    "megatron": {},
}


@contextmanager
def learner_at(
    *,
    port: int,
    tp: int = 1,
    sp: bool = False,
    pp: int = 1,
    vpp: int = 1,
    cp: int = 1,
    ep: int = 1,
    etp: int | None = None,
    tied: bool = False,
    spec: ModelSpec | None = None,
    pretrained: Path | None = None,
    **changes: Any,
) -> Iterator[Learner]:
    """Build the learner on all ranks of this job: of the tiny policy, unless ``spec`` is given."""
    # The threads of a job's process groups end with the last cycle of references to them.
    gc.collect()
    os.environ["MASTER_PORT"] = str(port)
    platform = CpuPlatform(num_threads=1)
    platform.install()
    place = rank_from_environment(os.environ)
    expert_tp = tp if etp is None else etp
    layout = Layout(tp=tp, sp=sp, pp=pp, vpp=vpp, cp=cp, ep=ep, etp=expert_tp)
    parallel = initialize_parallel(place, platform, layout, seed=SEED)
    try:
        yield Learner(
            model_spec(CONFIG | {"tie_word_embeddings": tied}) if spec is None else spec,
            settings(**changes),
            parallel,
            platform,
            pretrained=pretrained,
            seed=SEED,
        )
    finally:
        shut_down_parallel()


def settings(**changes: Any) -> LearnerSettings:
    """Return SETTINGS with changes, also of the optimiser's; the precision follows ``dtype``."""
    of_optimizer = {key: changes.pop(key) for key in OptimizerConfig.model_fields & changes.keys()}
    values = SETTINGS | changes
    values["optimizer"] = values["optimizer"].model_copy(update=of_optimizer)
    precision = resolve_precision(changes.pop("precision", None), dtype=values["dtype"])
    return LearnerSettings(**(values | {"precision": precision}))


def make_batches(count: int, *, num_minibatches: int = 1) -> list[Batch]:
    """Return GRPO batches of 4 pairs with lengths from 4 to 60, the same on every rank."""
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    return [_batch(np.random.default_rng(seed), num_minibatches) for seed in seeds]


def _batch(rng: np.random.Generator, num_minibatches: int) -> Batch:
    num_groups, size = 4, 2
    prompts = np.repeat(rng.integers(2, 8, num_groups), size)
    completions = rng.integers(2, 53, num_groups * size)
    offsets = np.cumsum([0, *(prompts + completions)])
    groups_N = np.repeat(np.arange(num_groups), size)
    minibatches_N = groups_N * num_minibatches // num_groups
    mask = [[False] * p + [True] * c for p, c in zip(prompts, completions, strict=True)]
    mask_T = np.concatenate(mask)
    group_tokens = np.bincount(groups_N, completions)[groups_N]
    groups_per_minibatch = num_groups // num_minibatches
    # Around the entropy of the policy, so that ratios lie on both sides of both clips.
    behavior_T = rng.normal(-3.5, 1.0, offsets[-1]).astype(np.float32)
    return Batch(
        sequences=Sequences(
            token_ids_T=rng.integers(0, CONFIG["vocab_size"], offsets[-1]),
            offsets=offsets,
            loss_mask_T=mask_T,
            behavior_logprobs_T=np.where(mask_T, behavior_T, np.float32(0)),
            advantages_N=rng.normal(size=num_groups * size).astype(np.float32),
            weights_N=(1 / (groups_per_minibatch * group_tokens)).astype(np.float32),
        ),
        policy_versions_T=np.where(mask_T, 0, -1).astype(np.int32),
        groups_N=groups_N,
        minibatches_N=minibatches_N,
        cursor=Cursor(next_index=num_groups, outstanding=()),
        metrics={},
        samples=[],
    )


def truncated(batch: Batch) -> Batch:
    """Return the batch as if each completion token had been chosen from 1 to 20 tokens."""
    rng, sequences = np.random.default_rng(0), batch.sequences
    rows = [
        {int(token), *rng.integers(0, CONFIG["vocab_size"], rng.integers(0, 20)).tolist()}
        if is_sampled
        else ()
        for token, is_sampled in zip(sequences.token_ids_T, sequences.loss_mask_T, strict=True)
    ]
    return with_sequences(batch, support=SamplingSupport.of_rows([sorted(row) for row in rows]))


def with_sequences(batch: Batch, **changes: Any) -> Batch:
    """Return the batch with some arrays of its sequences replaced."""
    return dataclasses.replace(batch, sequences=dataclasses.replace(batch.sequences, **changes))


def weights_of(learner: Learner) -> dict[str, torch.Tensor]:
    """Copy the whole weights by Hugging Face name, in the learner's order; a collective."""
    return {name: weight.clone() for name, weight in learner.named_weights()}


def write_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Save on rank 0."""
    if os.environ["RANK"] == "0":
        torch.save(weights, path)
