"""Learner: batches in, updated weights out. Owns model, optimiser and checkpoints."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megatron_rl.algorithm.losses import PolicyObjective
from megatron_rl.batch import Batch
from megatron_rl.config import Fp8Config, LossScaleConfig, OptimizerConfig, Precision
from megatron_rl.conversion.families import float32_tensors
from megatron_rl.learner.checkpoint.state import agreed_latest_step, load_checkpoint, state_to_save
from megatron_rl.learner.checkpoint.writer import CheckpointWriter, SavedCheckpoint
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.device.precision import megatron_fields, token_multiple
from megatron_rl.learner.forward import RowLoss, RowRunner
from megatron_rl.learner.metrics import combined
from megatron_rl.learner.minibatch import (
    Minibatch,
)
from megatron_rl.learner.model.gpt_model import (
    PARAMETER_TYPES,
    build_chunks,
    transformer_config,
)
from megatron_rl.learner.objective import policy_loss, supervised_loss
from megatron_rl.learner.optimizer import (
    SCALING,
    make_optimizer,
    make_schedule,
    step_metrics,
    take_step,
)
from megatron_rl.learner.reference import load_initial_weights, open_reference, scored_at_start
from megatron_rl.learner.rows import arrange, pack_rows, plan_rows, row_rules
from megatron_rl.learner.shards import LearnerShards
from megatron_rl.learner.weight_stream import named_weights
from megatron_rl.model_spec import ModelSpec
from megatron_rl.sequences import Sequences


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerSettings:
    """Settings of a learner; meanings as in config.sections."""

    dtype: str
    """Of the weights as they are published and exported."""
    precision: Precision
    fp8: Fp8Config
    loss_scale: LossScaleConfig
    token_budget: int
    logprob_chunk_tokens: int
    fp32_lm_head: bool
    temperature: float
    objective: PolicyObjective | None
    """None for a learner that only scores or learns from demonstrations."""
    optimizer: OptimizerConfig
    total_steps: int
    overlap_grad_reduce: bool
    overlap_param_gather: bool
    weight_batch_bytes: int
    """Most bytes of weights that are gathered at a time to be published or exported."""
    megatron: dict[str, Any]


class Learner:
    """A policy under training on this rank's share of the layout."""

    def __init__(
        self,
        spec: ModelSpec,
        settings: LearnerSettings,
        parallel: Parallel,
        platform: Platform,
        *,
        pretrained: Path | None,
        seed: int,
    ) -> None:
        """Build the model and give it weights.

        Args:
            pretrained: Hugging Face folder to read weights from; None makes them up from ``seed``.
        """
        dtype = PARAMETER_TYPES[settings.precision]
        overrides = platform.fused_fields(
            dtype=dtype, is_mixture=spec.moe is not None, has_latents=spec.latent is not None
        )
        overrides |= megatron_fields(settings.precision, settings.fp8) | settings.megatron
        config = transformer_config(spec, parallel.layout, dtype=dtype, overrides=overrides)
        self._spec, self._settings, self._parallel = spec, settings, parallel
        self._platform = platform
        self._rules = row_rules(
            spec,
            parallel.layout,
            token_budget=settings.token_budget,
            token_multiple=token_multiple(
                settings.precision, settings.fp8.recipe, is_gathered=parallel.layout.sp
            ),
            amax_spans_replicas=config.fp8 is not None and not config.tp_only_amax_red,
        )
        self._writer = CheckpointWriter(spec, platform)
        self._chunks = build_chunks(
            spec,
            config,
            parallel,
            platform,
            overlap_grad_reduce=settings.overlap_grad_reduce,
            overlap_param_gather=settings.overlap_param_gather,
        )
        load_initial_weights(self._bare_chunks(), spec, parallel, pretrained=pretrained, seed=seed)
        self._optimizer = make_optimizer(
            self._chunks, settings.optimizer, loss_scale=settings.loss_scale
        )
        self._schedule = make_schedule(
            self._optimizer, settings.optimizer, total_steps=settings.total_steps
        )
        self._runner = RowRunner(
            self._chunks,
            parallel,
            platform,
            vocab_size=spec.vocab_size,
            chunk_tokens=settings.logprob_chunk_tokens,
            is_head_fp32=settings.fp32_lm_head,
        )
        self._reference: RowRunner | None = None
        if settings.objective is not None and settings.objective.kl_coefficient:
            self._reference = open_reference(
                spec,
                parallel,
                platform,
                dtype=dtype,
                overrides=overrides,
                pretrained=pretrained,
                seed=seed,
                chunk_tokens=settings.logprob_chunk_tokens,
                is_head_fp32=settings.fp32_lm_head,
            )

    def update(self, batch: Batch) -> dict[str, float]:
        """Take one optimiser step per minibatch; return the batch's metrics, equal on all ranks.

        A step whose gradient is not finite is left out and counted in ``policy/skipped_steps``.
        """
        started = time.monotonic()
        objective, sequences = self._settings.objective, batch.sequences
        assert objective is not None, "built without a policy objective"
        minibatches = [
            self._arrange(sequences, np.flatnonzero(batch.minibatches_N == i))
            for i in range(batch.num_minibatches)
        ]
        minibatches = scored_at_start(
            minibatches,
            objective,
            policy=self._runner,
            reference=self._reference,
            temperature=self._settings.temperature,
        )
        records = [
            self._step(
                minibatch,
                policy_loss(objective, self._parallel, weight_sum=minibatch.weight_sum),
                entropy_has_gradient=objective.entropy_coefficient > 0,
            )
            for minibatch in minibatches
        ]
        totals = combined(records)
        seconds = self._seconds_since(started)
        totals["learner/tokens_per_s"] = float(batch.sequences.lengths_N.sum()) / seconds
        totals["time/update_s"] = seconds
        return totals

    def update_supervised(self, sequences: Sequences) -> dict[str, float]:
        """Take one optimiser step on prompt-and-response sequences."""
        started = time.monotonic()
        everything = np.arange(len(sequences.offsets) - 1)
        minibatch = self._arrange(sequences, everything)
        metrics = self._step(minibatch, supervised_loss, entropy_has_gradient=False)
        seconds = self._seconds_since(started)
        return {
            "sft/loss": metrics["policy/loss"],
            "sft/grad_norm": metrics["policy/grad_norm"],
            "sft/lr": metrics["policy/lr"],
            "sft/skipped_steps": metrics["policy/skipped_steps"],
            **{f"sft/{n}": metrics[f"policy/{n}"] for n in SCALING if f"policy/{n}" in metrics},
            "sft/tokens_per_s": float(sequences.offsets[-1]) / seconds,
        }

    @torch.no_grad()
    def logprobs(self, sequences: Sequences) -> list[Tensor]:
        """Return the [n - 1] log-probabilities of an n-token sequence, all but the first, for each.

        Every data-parallel rank computes all sequences. Temperature is applied as in training.
        """
        lengths = np.diff(sequences.offsets)
        (rows,) = plan_rows(sequences, self._rules, dp_size=1)
        packed = pack_rows(sequences, rows, self._rules)
        results: list[Tensor] = [torch.empty(0)] * len(lengths)
        row_logprobs = self._runner.logprobs(packed, temperature=self._settings.temperature)
        for row, pack, logprobs_T in zip(rows, packed, row_logprobs, strict=True):
            for index, start in zip(row, pack.cu_seqlens.tolist(), strict=False):
                results[index] = logprobs_T[start : start + int(lengths[index]) - 1].cpu()
        return results

    def shards(self, quantised: frozenset[str] = frozenset()) -> LearnerShards:
        """Return the weights where they are; stays true as they change. A collective.

        Args:
            quantised: Hugging Face tensors that servers hold in block FP8.
        """
        return LearnerShards(
            self._bare_chunks(),
            self._spec,
            self._parallel,
            dtype=self._settings.dtype,
            settle=self._finish_gathering_weights,
            whole=self.named_weights,
            quantised=quantised,
        )

    def named_weights(self, only: frozenset[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (Hugging Face name, whole tensor) in ``dtype``; see weight_stream.named_weights."""
        self._finish_gathering_weights()
        dtype = getattr(torch, self._settings.dtype)
        weights = named_weights(
            self._bare_chunks(),
            self._spec,
            self._parallel,
            batch_bytes=self._settings.weight_batch_bytes,
            only=only,
        )
        kept = float32_tensors(self._spec)
        return ((name, w if name in kept else w.to(dtype)) for name, w in weights)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (Megatron name, float32 gradient) of this rank's parameters after the last step.

        Clipping has changed them in place, and ranks that share rows have their own share summed.
        """
        for chunk in self._chunks:
            for name, parameter in chunk.module.named_parameters():
                yield name, parameter.main_grad.float()

    def save(self, root: Path, step: int, *, extra: dict[str, Any]) -> None:
        """Save everything an exact continuation needs, at once; a collective."""
        self._start_writing(root, step, extra, in_background=False)
        self.finish_saving(wait=True)

    def start_saving(self, root: Path, step: int, *, extra: dict[str, Any]) -> None:
        """Save in the background; ``finish_saving`` completes the checkpoint. A collective."""
        self._start_writing(root, step, extra, in_background=True)

    def finish_saving(self, *, wait: bool) -> SavedCheckpoint | None:
        """Name what is being saved once all ranks have written it; see CheckpointWriter."""
        return self._writer.finish(wait=wait)

    def restore(self, root: Path) -> tuple[int, dict[str, Any]] | None:
        """Load the newest checkpoint; return its step and ``extra``, None when there is none."""
        step = agreed_latest_step(root)
        if step is None:
            return None
        extra = load_checkpoint(
            root,
            step,
            spec=self._spec,
            chunks=self._bare_chunks(),
            optimizer=self._optimizer,
            schedule=self._schedule,
            platform=self._platform,
        )
        return step, extra

    def _start_writing(
        self, root: Path, step: int, extra: dict[str, Any], *, in_background: bool
    ) -> None:
        self._finish_gathering_weights()
        state = state_to_save(
            chunks=self._bare_chunks(),
            optimizer=self._optimizer,
            schedule=self._schedule,
            platform=self._platform,
            extra=extra,
        )
        self._writer.start(root, step, state, in_background=in_background)

    def _seconds_since(self, started: float) -> float:
        """Return the time until the device is done: the last step is only asked for so far."""
        self._platform.synchronize()
        return time.monotonic() - started

    def _finish_gathering_weights(self) -> None:
        """Bring in what other ranks updated: with overlap, only the next forward pass would."""
        if self._settings.overlap_param_gather:
            for chunk in self._chunks:
                chunk.start_param_sync(force_sync=True)

    def _arrange(self, sequences: Sequences, chosen: Any) -> Minibatch:
        place = self._parallel
        return arrange(sequences, chosen, self._rules, dp_size=place.dp_size, dp_rank=place.dp_rank)

    def _step(
        self, minibatch: Minibatch, loss: RowLoss, *, entropy_has_gradient: bool
    ) -> dict[str, float]:
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()
        metrics = self._runner.train(
            minibatch.rows,
            loss,
            temperature=self._settings.temperature,
            entropy_has_gradient=entropy_has_gradient,
        )
        lr = self._optimizer.param_groups[0]["lr"]
        step = take_step(self._optimizer, loss=metrics["policy/loss"])
        if step.is_taken:
            self._schedule.step(1)
        return metrics | {
            **step_metrics(step),
            "policy/lr": float(lr),
            "packing/waste": minibatch.waste,
            "packing/rows": float(minibatch.num_rows),
            "packing/imbalance": minibatch.imbalance,
        }

    def _bare_chunks(self) -> list[torch.nn.Module]:
        return [chunk.module for chunk in self._chunks]
