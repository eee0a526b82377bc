"""The learner: batches in, updated weights out. Owns model, optimiser and checkpoints."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megatron_rl.algorithm.losses import clipped_policy_loss, negative_log_likelihood
from megatron_rl.algorithm.packing import PackedRow, Sequences, pack_row, packing_waste, plan
from megatron_rl.batch import Batch
from megatron_rl.conversion.families import ModelSpec
from megatron_rl.hf_folder import WeightReader
from megatron_rl.learner import checkpoint
from megatron_rl.learner.forward import DeviceRow, RowLoss, RowRunner
from megatron_rl.learner.hf_weights import load_weights, named_weights, random_weights
from megatron_rl.learner.model import build_model, transformer_config
from megatron_rl.learner.optimizer import make_optimizer, make_schedule
from megatron_rl.learner.parallel import Parallel
from megatron_rl.learner.platform import Platform

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerSettings:
    """What a learner needs of the configuration; meanings as in config.sections."""

    dtype: str
    token_budget: int
    temperature: float
    clip_low: float
    clip_high: float
    lr: float
    min_lr: float | None
    warmup_steps: int
    total_steps: int
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_grad: float
    overlap_grad_reduce: bool
    overlap_param_gather: bool
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
        config = transformer_config(
            spec, parallel, dtype=_DTYPES[settings.dtype], overrides=settings.megatron
        )
        self._spec, self._settings, self._parallel = spec, settings, parallel
        self._model = build_model(
            spec,
            config,
            platform,
            overlap_grad_reduce=settings.overlap_grad_reduce,
            overlap_param_gather=settings.overlap_param_gather,
        )
        self._load_initial_weights(pretrained, seed)
        self._optimizer = make_optimizer(
            self._model,
            lr=settings.lr,
            min_lr=settings.min_lr,
            beta1=settings.beta1,
            beta2=settings.beta2,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            clip_grad=settings.clip_grad,
        )
        self._schedule = make_schedule(
            self._optimizer,
            lr=settings.lr,
            min_lr=settings.min_lr,
            warmup_steps=settings.warmup_steps,
            total_steps=settings.total_steps,
            weight_decay=settings.weight_decay,
        )
        self._runner = RowRunner(self._model, parallel, platform.device, vocab_size=spec.vocab_size)

    def update(self, batch: Batch) -> dict[str, float]:
        """Take one optimiser step per minibatch; return the batch's metrics, equal on all ranks."""
        started = time.monotonic()
        totals: dict[str, float] = {}
        for minibatch in range(batch.num_minibatches):
            chosen = np.flatnonzero(batch.minibatches_N == minibatch)
            metrics = self._step(_sequences(batch), chosen, self._policy_loss)
            for name, value in metrics.items():
                totals[name] = totals.get(name, 0.0) + value / batch.num_minibatches
        seconds = time.monotonic() - started
        totals["learner/tokens_per_s"] = float(batch.lengths_N.sum()) / seconds
        totals["time/update_s"] = seconds
        return totals

    def update_supervised(self, sequences: Sequences) -> dict[str, float]:
        """Take one optimiser step on prompt-and-response sequences."""
        started = time.monotonic()
        everything = np.arange(len(sequences.offsets) - 1)
        metrics = self._step(sequences, everything, _supervised_loss)
        seconds = time.monotonic() - started
        return {
            "sft/loss": metrics["policy/loss"],
            "sft/grad_norm": metrics["policy/grad_norm"],
            "sft/lr": metrics["policy/lr"],
            "sft/tokens_per_s": float(sequences.offsets[-1]) / seconds,
        }

    @torch.no_grad()
    def logprobs(self, sequences: Sequences) -> list[Tensor]:
        """Return the [n - 1] log-probabilities of an n-token sequence, all but the first, for each.

        Every data-parallel rank computes all sequences. Temperature is applied as in training.
        """
        lengths = np.diff(sequences.offsets)
        (rows,) = plan(lengths, dp_size=1, token_budget=self._settings.token_budget)
        packed = self._pack(sequences, rows)
        results: list[Tensor] = [torch.empty(0)] * len(lengths)
        row_logprobs = self._runner.logprobs(packed, temperature=self._settings.temperature)
        for row, logprobs_T in zip(rows, row_logprobs, strict=True):
            parts = logprobs_T[: sum(lengths[i] - 1 for i in row)].split(
                [int(lengths[i]) - 1 for i in row]
            )
            for index, part in zip(row, parts, strict=True):
                results[index] = part.cpu()
        return results

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (Hugging Face name, whole tensor); a collective, see hf_weights.named_weights."""
        self._finish_gathering_weights()
        return named_weights(self._model.module, self._spec, self._parallel)

    def save(self, root: Path, step: int, *, extra: dict[str, Any]) -> None:
        """Save everything an exact continuation needs; a collective."""
        self._finish_gathering_weights()
        checkpoint.save_checkpoint(
            root,
            step,
            model=self._model.module,
            optimizer=self._optimizer,
            schedule=self._schedule,
            extra=extra,
        )

    def restore(self, root: Path) -> tuple[int, dict[str, Any]] | None:
        """Load the newest checkpoint; return its step and ``extra``, None when there is none."""
        step = checkpoint.latest_step(root)
        if step is None:
            return None
        extra = checkpoint.load_checkpoint(
            root,
            step,
            model=self._model.module,
            optimizer=self._optimizer,
            schedule=self._schedule,
        )
        return step, extra

    def _finish_gathering_weights(self) -> None:
        """Bring in what other ranks updated: with overlap, only the next forward pass would."""
        if self._settings.overlap_param_gather:
            self._model.start_param_sync(force_sync=True)

    def _load_initial_weights(self, pretrained: Path | None, seed: int) -> None:
        bare = self._model.module
        read = (
            random_weights(bare, self._spec, self._parallel, seed=seed)
            if pretrained is None
            else WeightReader(pretrained)
        )
        load_weights(bare, self._spec, self._parallel, read)

    def _step(self, sequences: Sequences, chosen: Any, loss: RowLoss) -> dict[str, float]:
        lengths = np.diff(sequences.offsets)[chosen]
        ranks = plan(
            lengths, dp_size=self._parallel.dp_size, token_budget=self._settings.token_budget
        )
        mine = [tuple(int(chosen[i]) for i in row) for row in ranks[self._parallel.dp_rank]]
        self._model.zero_grad_buffer()
        self._optimizer.zero_grad()
        metrics = self._runner.train(
            self._pack(sequences, mine), loss, temperature=self._settings.temperature
        )
        lr = self._optimizer.param_groups[0]["lr"]
        _, grad_norm, _ = self._optimizer.step()
        self._schedule.step(1)
        return metrics | {
            "policy/grad_norm": float(grad_norm),
            "policy/lr": float(lr),
            "packing/waste": packing_waste(lengths, ranks, budget=self._settings.token_budget),
            "packing/rows": float(sum(len(rows) for rows in ranks)),
        }

    def _pack(self, sequences: Sequences, rows: Sequence[tuple[int, ...]]) -> list[PackedRow]:
        multiple = self._parallel.tp_size if self._parallel.sp else 1
        return [pack_row(sequences, row, multiple=multiple) for row in rows]

    def _policy_loss(
        self, logprobs_T: Tensor, entropy_T: Tensor, row: DeviceRow
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = clipped_policy_loss(
            logprobs_T,
            row.behavior_logprobs_T,
            row.advantages_T,
            row.weights_T,
            clip_low=self._settings.clip_low,
            clip_high=self._settings.clip_high,
        )
        metrics["policy/loss"] = loss.detach()
        metrics["policy/entropy"] = (row.weights_T * entropy_T).sum()
        return loss, metrics


def _supervised_loss(
    logprobs_T: Tensor, _: Tensor, row: DeviceRow
) -> tuple[Tensor, dict[str, Tensor]]:
    loss = negative_log_likelihood(logprobs_T, row.weights_T)
    return loss, {"policy/loss": loss.detach()}


def _sequences(batch: Batch) -> Sequences:
    return Sequences(
        token_ids_T=batch.token_ids_T,
        offsets=batch.offsets,
        loss_mask_T=batch.loss_mask_T,
        behavior_logprobs_T=batch.behavior_logprobs_T,
        advantages_N=batch.advantages_N,
        weights_N=batch.weights_N,
    )
