"""Reference policies: the weights training starts from, and log-probs of the policies compared."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from megatron_rl.algorithm.losses import PolicyObjective
from megatron_rl.hf_folder import WeightReader
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.forward import RowRunner
from megatron_rl.learner.hf_weights import load_weights, random_weights
from megatron_rl.learner.minibatch import Minibatch
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


def scored_at_start(
    minibatches: Sequence[Minibatch],
    objective: PolicyObjective,
    *,
    policy: RowRunner,
    reference: RowRunner | None,
    temperature: float,
) -> list[Minibatch]:
    """Add the log-probs that the objective compares with; call it before the batch's first step.

    In a batch of one step the old policy is the one that is trained, and is not run twice.
    """
    needs_old = objective.correction is not None and len(minibatches) > 1
    results = list(minibatches)
    if needs_old:
        results = [_scored(m, "old_logprobs_T", policy, temperature) for m in results]
    if reference is not None:
        results = [_scored(m, "reference_logprobs_T", reference, temperature) for m in results]
    return results


@torch.no_grad()
def _scored(
    minibatch: Minibatch,
    field: Literal["old_logprobs_T", "reference_logprobs_T"],
    runner: RowRunner,
    temperature: float,
) -> Minibatch:
    logprobs = runner.logprobs(minibatch.rows, temperature=temperature)
    rows = [
        dataclasses.replace(row, **{field: logprobs_T.float().cpu().numpy()})
        for row, logprobs_T in zip(minibatch.rows, logprobs, strict=True)
    ]
    return dataclasses.replace(minibatch, rows=rows)
