"""Packed rows through the model: forward only, or forward and backward.

Shape letters: T = tokens of one packed row, S = this rank's part of them under sequence
parallelism (else T), H = hidden size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func
from numpy.typing import NDArray
from torch import Tensor

from megatron_rl.algorithm.packing import PackedRow, zigzag_indices
from megatron_rl.learner.logprobs import token_logprobs_and_entropy
from megatron_rl.learner.output_layer import (
    output_weight,
    return_hidden_states,
    whole_hidden_states,
)
from megatron_rl.learner.parallel import Parallel


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRow:
    """A PackedRow on the learner's device; see algorithm.packing.PackedRow."""

    token_ids_T: Tensor
    targets_T: Tensor
    positions_T: Tensor
    cu_seqlens: Tensor
    longest: int
    behavior_logprobs_T: Tensor
    advantages_T: Tensor
    weights_T: Tensor
    old_logprobs_T: Tensor | None
    reference_logprobs_T: Tensor | None
    sequence_lengths_S: Tensor
    """Tokens that this rank holds of each sequence of the row."""


RowLoss = Callable[[Tensor, Tensor, DeviceRow], tuple[Tensor, dict[str, Tensor]]]
"""(logprobs_T, entropy_T, row) -> (scalar loss, metrics), all weighted sums, except that of
metrics named ``*_max`` the largest counts."""


class RowRunner:
    """Runs rows through a model with Megatron's schedule.

    The model is a list of chunks: one, or several with an interleaved pipeline.
    """

    def __init__(
        self,
        chunks: Sequence[torch.nn.Module],
        parallel: Parallel,
        device: torch.device,
        *,
        vocab_size: int,
        chunk_tokens: int,
        is_head_fp32: bool,
    ) -> None:
        """Let the model return hidden states from now on, for log-probs by the chunk.

        Args:
            chunk_tokens: tokens whose logits exist at one time; 0 for all of a row.
            is_head_fp32: multiply with the output layer in float32.
        """
        self._chunks = list(chunks)
        self._parallel = parallel
        self._device = device
        self._vocab_size = vocab_size
        self._chunk_tokens = chunk_tokens
        self._is_head_fp32 = is_head_fp32
        self._schedule = get_forward_backward_func()
        for chunk in self._chunks:
            return_hidden_states(chunk)
        # A frozen model is not wrapped, and has no gradients to reduce.
        if isinstance(chunks[0], DistributedDataParallel):
            _connect_schedule(self._chunks)

    def train(
        self,
        rows: Sequence[PackedRow],
        loss: RowLoss,
        *,
        temperature: float,
        entropy_has_gradient: bool,
    ) -> dict[str, float]:
        """Accumulate the gradients of all rows; return the metrics summed over rows and ranks."""
        results = self._run(
            rows,
            loss,
            temperature=temperature,
            entropy_has_gradient=entropy_has_gradient,
            forward_only=False,
        )
        return sum_over_rows_and_ranks(results, self._parallel)

    def logprobs(self, rows: Sequence[PackedRow], *, temperature: float) -> list[Tensor]:
        """Return the [T] log-probability of every target of each row, without gradients."""

        def keep(logprobs_T: Tensor, _: Tensor, __: DeviceRow) -> tuple[Tensor, dict[str, Tensor]]:
            return logprobs_T.sum(), {"logprobs_T": logprobs_T}

        results = self._run(
            rows, keep, temperature=temperature, entropy_has_gradient=False, forward_only=True
        )
        mine = [result["logprobs_T"] for result in results]
        whole = (
            [self._join_context(part, row) for part, row in zip(mine, rows, strict=True)]
            if mine
            else []
        )
        return from_last_stage(whole, self._parallel)

    def _run(
        self,
        rows: Sequence[PackedRow],
        loss: RowLoss,
        *,
        temperature: float,
        entropy_has_gradient: bool,
        forward_only: bool,
    ) -> list[dict[str, Tensor]]:
        def forward_step(iterator: Iterator[DeviceRow], model: Any) -> Any:
            row = next(iterator)

            def weighted_sums(hidden_1SH: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
                logprobs_T, entropy_T = self._score(
                    hidden_1SH, output_weight(model), row, temperature, entropy_has_gradient
                )
                value, metrics = loss(logprobs_T, entropy_T, row)
                # The token count is ignored by _finalize_without_averaging.
                count = torch.zeros([], dtype=torch.int, device=self._device)
                return value, count, metrics

            return _forward(model, row), weighted_sums

        iterators = [self._device_rows(rows) for _ in self._chunks]
        is_interleaved = len(self._chunks) > 1
        return self._schedule(
            forward_step_func=forward_step,
            data_iterator=iterators if is_interleaved else iterators[0],
            model=self._chunks if is_interleaved else self._chunks[0],
            num_microbatches=len(rows),
            seq_length=max(len(row.token_ids_T) for row in rows),
            micro_batch_size=1,
            forward_only=forward_only,
        )

    def _device_rows(self, rows: Sequence[PackedRow]) -> Iterator[DeviceRow]:
        for row in rows:
            yield to_device(row, self._device, self._context_indices(row))

    def _context_indices(self, row: PackedRow) -> NDArray[np.int64] | None:
        """Return which of the row's tokens this rank holds, None for all."""
        cp_size = self._parallel.layout.cp
        if cp_size == 1:
            return None
        return zigzag_indices(row.cu_seqlens, cp_size=cp_size, cp_rank=self._parallel.cp_rank)

    def _join_context(self, part_T: Tensor, row: PackedRow) -> Tensor:
        """Put the tokens of all context-parallel ranks back in the order of the row."""
        cp_size = self._parallel.layout.cp
        if cp_size == 1:
            return part_T
        parts = [torch.empty_like(part_T) for _ in range(cp_size)]
        dist.all_gather(parts, part_T.contiguous(), group=self._parallel.cp_group)
        whole_T = part_T.new_empty(len(row.token_ids_T))
        for cp_rank, part in enumerate(parts):
            held = zigzag_indices(row.cu_seqlens, cp_size=cp_size, cp_rank=cp_rank)
            whole_T[torch.from_numpy(held).to(self._device)] = part
        return whole_T

    def _score(
        self,
        hidden_1SH: Tensor,
        weight_VH: Tensor,
        row: DeviceRow,
        temperature: float,
        entropy_has_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        part = len(weight_VH)
        first = self._parallel.tp_rank * part
        return token_logprobs_and_entropy(
            whole_hidden_states(
                hidden_1SH,
                is_sequence_parallel=self._parallel.layout.sp,
                tp_group=self._parallel.tp_group,
            ),
            weight_VH,
            row.targets_T,
            temperature=temperature,
            entropy_has_gradient=entropy_has_gradient,
            num_real=min(part, max(0, self._vocab_size - first)),
            tp_group=self._parallel.tp_group,
            chunk_tokens=self._chunk_tokens,
            is_fp32=self._is_head_fp32,
        )


def _forward(model: Any, row: DeviceRow) -> Tensor:
    packed = PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=row.cu_seqlens,
        cu_seqlens_kv=row.cu_seqlens,
        max_seqlen_q=row.longest,
        max_seqlen_kv=row.longest,
    )
    return model(row.token_ids_T[None], row.positions_T[None], None, packed_seq_params=packed)


def to_device(row: PackedRow, device: torch.device, held: NDArray[np.int64] | None) -> DeviceRow:
    """Copy a row's arrays to the device; of tokens only those in ``held``, unless it is None."""

    # Context-parallel ranks hold equal parts of every sequence.
    num_holders = 1 if held is None else len(row.token_ids_T) // len(held)

    def tensor(array_T: Any) -> Tensor:
        return torch.from_numpy(array_T if held is None else array_T[held]).to(device)

    return DeviceRow(
        token_ids_T=tensor(row.token_ids_T),
        targets_T=tensor(row.targets_T),
        positions_T=tensor(row.positions_T),
        cu_seqlens=torch.from_numpy(row.cu_seqlens).to(device),
        longest=int((row.cu_seqlens[1:] - row.cu_seqlens[:-1]).max()),
        behavior_logprobs_T=tensor(row.behavior_logprobs_T),
        advantages_T=tensor(row.advantages_T),
        weights_T=tensor(row.weights_T),
        old_logprobs_T=None if row.old_logprobs_T is None else tensor(row.old_logprobs_T),
        reference_logprobs_T=(
            None if row.reference_logprobs_T is None else tensor(row.reference_logprobs_T)
        ),
        sequence_lengths_S=torch.from_numpy(np.diff(row.cu_seqlens) // num_holders).to(device),
    )


def sum_over_rows_and_ranks(
    results: Sequence[Mapping[str, Tensor]], parallel: Parallel
) -> dict[str, float]:
    """Add up weighted-sum metrics over the rows of this rank and over the ranks.

    Of metrics named ``*_max`` the largest is taken.
    """
    summed = {}
    if parallel.is_last_stage:
        for is_maximum, operation in ((False, dist.ReduceOp.SUM), (True, dist.ReduceOp.MAX)):
            names = sorted(name for name in results[0] if name.endswith("_max") == is_maximum)
            if not names:
                continue
            values = torch.stack(
                [torch.stack([row[name].detach().float() for row in results]) for name in names]
            )
            totals = values.max(dim=1).values if is_maximum else values.sum(dim=1)
            dist.all_reduce(totals, op=operation, group=parallel.token_group)
            summed |= dict(zip(names, totals.tolist(), strict=True))
    return from_last_stage(summed, parallel)


def from_last_stage(value: Any, parallel: Parallel) -> Any:
    """Return the last pipeline stage's ``value`` on every stage."""
    if parallel.layout.pp == 1:
        return value
    box = [value]
    last = dist.get_process_group_ranks(parallel.pp_group)[-1]
    dist.broadcast_object_list(box, src=last, group=parallel.pp_group)
    return box[0]


def _connect_schedule(chunks: Sequence[Any]) -> None:
    """Hand Megatron's schedule the functions it calls around a backward pass."""
    config = chunks[0].config
    config.finalize_model_grads_func = _finalize_without_averaging
    if chunks[0].ddp_config.overlap_grad_reduce:
        no_sync = [chunk.no_sync for chunk in chunks]
        config.no_sync_func = no_sync if len(chunks) > 1 else no_sync[0]


def _finalize_without_averaging(model: Any, _: Any = None, **kwargs: Any) -> None:
    """Reduce gradients over ranks and leave their scale alone.

    This is the one place that neutralises Megatron's averaging: token weights already sum to 1
    over the global minibatch, so gradients only have to be summed.
    """
    finalize_model_grads(model, None, **kwargs)
