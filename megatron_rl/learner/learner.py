"""The learner: batches in, updated weights out. Owns model, optimiser and checkpoints."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megatron_rl.algorithm.packing import (
    PackedRow,
    Row,
    Sequences,
    pack_row,
    packing_waste,
    padded_lengths,
    plan,
)
from megatron_rl.batch import Batch
from megatron_rl.conversion.families import ModelSpec
from megatron_rl.learner import checkpoint
from megatron_rl.learner.checkpoint_steps import latest_step
from megatron_rl.learner.forward import RowLoss, RowRunner
from megatron_rl.learner.hf_weights import named_weights
from megatron_rl.learner.minibatch import (
    Minibatch,
    combined,
    scored_at_start,
    sequences_of,
    weight_sum,
)
from megatron_rl.learner.model import build_chunks, transformer_config
from megatron_rl.learner.objective import policy_loss, supervised_loss
from megatron_rl.learner.optimizer import make_optimizer, make_schedule, take_step
from megatron_rl.learner.parallel import Parallel
from megatron_rl.learner.platform import Platform
from megatron_rl.learner.reference import load_initial_weights, open_reference
from megatron_rl.learner.settings import LearnerSettings

__all__ = ["Learner", "LearnerSettings"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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
            self._chunks,
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
        self._runner = RowRunner(
            self._chunks,
            parallel,
            platform.device,
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
                dtype=_DTYPES[settings.dtype],
                overrides=settings.megatron,
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
        objective, sequences = self._settings.objective, sequences_of(batch)
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
        seconds = time.monotonic() - started
        totals["learner/tokens_per_s"] = float(batch.lengths_N.sum()) / seconds
        totals["time/update_s"] = seconds
        return totals

    def update_supervised(self, sequences: Sequences) -> dict[str, float]:
        """Take one optimiser step on prompt-and-response sequences."""
        started = time.monotonic()
        everything = np.arange(len(sequences.offsets) - 1)
        minibatch = self._arrange(sequences, everything)
        metrics = self._step(minibatch, supervised_loss, entropy_has_gradient=False)
        seconds = time.monotonic() - started
        return {
            "sft/loss": metrics["policy/loss"],
            "sft/grad_norm": metrics["policy/grad_norm"],
            "sft/lr": metrics["policy/lr"],
            "sft/skipped_steps": metrics["policy/skipped_steps"],
            "sft/tokens_per_s": float(sequences.offsets[-1]) / seconds,
        }

    @torch.no_grad()
    def logprobs(self, sequences: Sequences) -> list[Tensor]:
        """Return the [n - 1] log-probabilities of an n-token sequence, all but the first, for each.

        Every data-parallel rank computes all sequences. Temperature is applied as in training.
        """
        lengths = np.diff(sequences.offsets)
        (rows,) = self._plan(self._lengths_in_rows(sequences), dp_size=1)
        packed = self._pack(sequences, rows)
        results: list[Tensor] = [torch.empty(0)] * len(lengths)
        row_logprobs = self._runner.logprobs(packed, temperature=self._settings.temperature)
        for row, pack, logprobs_T in zip(rows, packed, row_logprobs, strict=True):
            for index, start in zip(row, pack.cu_seqlens.tolist(), strict=False):
                results[index] = logprobs_T[start : start + int(lengths[index]) - 1].cpu()
        return results

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (Hugging Face name, whole tensor); a collective, see hf_weights.named_weights."""
        self._finish_gathering_weights()
        return named_weights(self._bare_chunks(), self._spec, self._parallel)

    def save(self, root: Path, step: int, *, extra: dict[str, Any]) -> None:
        """Save everything an exact continuation needs; a collective."""
        self._finish_gathering_weights()
        checkpoint.save_checkpoint(
            root,
            step,
            chunks=self._bare_chunks(),
            optimizer=self._optimizer,
            schedule=self._schedule,
            extra=extra,
        )

    def restore(self, root: Path) -> tuple[int, dict[str, Any]] | None:
        """Load the newest checkpoint; return its step and ``extra``, None when there is none."""
        step = latest_step(root)
        if step is None:
            return None
        extra = checkpoint.load_checkpoint(
            root,
            step,
            chunks=self._bare_chunks(),
            optimizer=self._optimizer,
            schedule=self._schedule,
        )
        return step, extra

    def _finish_gathering_weights(self) -> None:
        """Bring in what other ranks updated: with overlap, only the next forward pass would."""
        if self._settings.overlap_param_gather:
            for chunk in self._chunks:
                chunk.start_param_sync(force_sync=True)

    def _arrange(self, sequences: Sequences, chosen: Any) -> Minibatch:
        lengths = self._lengths_in_rows(sequences)[chosen]
        ranks = self._plan(lengths, dp_size=self._parallel.dp_size)
        mine = [tuple(int(chosen[i]) for i in row) for row in ranks[self._parallel.dp_rank]]
        return Minibatch(
            rows=self._pack(sequences, mine),
            weight_sum=weight_sum(sequences, chosen),
            waste=packing_waste(lengths, ranks, budget=self._settings.token_budget),
            num_rows=sum(len(rows) for rows in ranks),
        )

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
        grad_norm, is_taken = take_step(self._optimizer)
        if is_taken:
            self._schedule.step(1)
        return metrics | {
            "policy/grad_norm": grad_norm,
            "policy/skipped_steps": float(not is_taken),
            "policy/lr": float(lr),
            "packing/waste": minibatch.waste,
            "packing/rows": float(minibatch.num_rows),
        }

    def _plan(self, lengths: NDArray[np.int64], *, dp_size: int) -> list[list[Row]]:
        layout = self._parallel.layout
        return plan(
            lengths,
            dp_size=dp_size,
            token_budget=self._settings.token_budget,
            # An interleaved pipeline takes microbatches in rounds of its size.
            rows_multiple=layout.pp if layout.vpp > 1 else 1,
        )

    def _lengths_in_rows(self, sequences: Sequences) -> NDArray[np.int64]:
        """Return the tokens each sequence takes in a row, the padding of this layout included."""
        lengths = np.diff(sequences.offsets)
        return padded_lengths(lengths, sequence_multiple=self._sequence_multiple)

    @property
    def _sequence_multiple(self) -> int:
        """Context parallelism cuts every sequence into two chunks for each of its ranks."""
        cp_size = self._parallel.layout.cp
        return 2 * cp_size if cp_size > 1 else 1

    def _pack(self, sequences: Sequences, rows: Sequence[Row]) -> list[PackedRow]:
        layout = self._parallel.layout
        return [
            pack_row(
                sequences,
                row,
                sequence_multiple=self._sequence_multiple,
                # Sequence parallelism cuts what each context-parallel rank holds once more.
                multiple=self._sequence_multiple * (layout.tp if layout.sp else 1),
            )
            for row in rows
        ]

    def _bare_chunks(self) -> list[torch.nn.Module]:
        return [chunk.module for chunk in self._chunks]
