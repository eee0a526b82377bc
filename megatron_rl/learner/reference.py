"""Weights that training starts from: into the policy, and frozen into a reference model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from megatron_rl.hf_folder import WeightReader
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.forward import RowRunner
from megatron_rl.learner.hf_weights import load_weights, random_weights
from megatron_rl.learner.model.gpt_model import build_frozen_chunks, transformer_config
from megatron_rl.model_spec import ModelSpec


def load_initial_weights(
    chunks: Sequence[torch.nn.Module],
    spec: ModelSpec,
    parallel: Parallel,
    *,
    pretrained: Path | None,
    seed: int,
) -> None:
    """Fill the bare chunks from a Hugging Face folder; None makes weights up from ``seed``."""
    read = (
        random_weights(chunks, spec, parallel, seed=seed)
        if pretrained is None
        else WeightReader(pretrained)
    )
    load_weights(chunks, spec, parallel, read)


def open_reference(
    spec: ModelSpec,
    parallel: Parallel,
    platform: Platform,
    *,
    dtype: torch.dtype,
    overrides: Mapping[str, Any],
    pretrained: Path | None,
    seed: int,
    chunk_tokens: int,
    is_head_fp32: bool,
) -> RowRunner:
    """Return a runner of the initial weights in the policy's layout.

    It costs one copy of the weights in ``dtype`` on every rank, and neither gradients nor
    optimiser state. A configuration of its own keeps the policy's gradient hooks out of it.
    """
    config = transformer_config(spec, parallel.layout, dtype=dtype, overrides=overrides)
    chunks = build_frozen_chunks(spec, config, parallel, platform)
    load_initial_weights(chunks, spec, parallel, pretrained=pretrained, seed=seed)
    return RowRunner(
        chunks,
        parallel,
        platform,
        vocab_size=spec.vocab_size,
        chunk_tokens=chunk_tokens,
        is_head_fp32=is_head_fp32,
    )
