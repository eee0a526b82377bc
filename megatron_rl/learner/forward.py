"""Forward and backward passes of packed rows through the model.

Shape letters: T = tokens of one packed row, S = this rank's part of them under sequence
parallelism (else T), H = hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_rl.algorithm.packing import PackedRow
from megatron_rl.learner.device.attention import RowParams
from megatron_rl.learner.device.parallel import Parallel, from_last_stage
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.device_rows import DeviceRow, context_indices, device_rows
from megatron_rl.learner.logprobs import token_logprobs_and_entropy
from megatron_rl.learner.metrics import sum_over_rows_and_ranks
from megatron_rl.learner.model.output_layer import (
    output_weight,
    return_hidden_states,
    whole_hidden_states,
)

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
        platform: Platform,
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
        self._platform = platform
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
        """Return the [T] log-probability of every target of each row, on the host."""

        def keep(logprobs_T: Tensor, _: Tensor, __: DeviceRow) -> tuple[Tensor, dict[str, Tensor]]:
            return logprobs_T.sum(), {"logprobs_T": logprobs_T}

        results = self._run(
            rows, keep, temperature=temperature, entropy_has_gradient=False, forward_only=True
        )
        mine = [result["logprobs_T"] for result in results]
        # Other stages would unpickle a tensor of a device onto the device of the rank that sent it.
        whole = (
            [self._join_context(part, row).cpu() for part, row in zip(mine, rows, strict=True)]
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
                count = torch.zeros([], dtype=torch.int, device=self._platform.device)
                return value, count, metrics

            return _forward(model, row), weighted_sums

        uploaded = device_rows(rows, self._parallel, self._platform)
        iterators = [iter(uploaded) for _ in self._chunks]
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

    def _join_context(self, part_T: Tensor, row: PackedRow) -> Tensor:
        """Put the tokens of all context-parallel ranks back in the order of the row."""
        cp_size = self._parallel.layout.cp
        if cp_size == 1:
            return part_T
        parts = [torch.empty_like(part_T) for _ in range(cp_size)]
        dist.all_gather(parts, part_T.contiguous(), group=self._parallel.cp_group)
        whole_T = part_T.new_empty(len(row.token_ids_T))
        for cp_rank, part in enumerate(parts):
            held = context_indices(row, self._parallel, cp_rank)
            whole_T[torch.from_numpy(held).to(whole_T.device)] = part
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
            support=row.support,
        )


def _forward(model: Any, row: DeviceRow) -> Tensor:
    packed = RowParams(
        qkv_format="thd",
        cu_seqlens_q=row.cu_seqlens,
        cu_seqlens_kv=row.cu_seqlens,
        max_seqlen_q=row.longest,
        max_seqlen_kv=row.longest,
        edges=row.edges,
    )
    # Rotation takes positions from the edges of sequences; only the first stage looks at tokens.
    ids = None if row.token_ids_T is None else row.token_ids_T[None]
    return model(ids, None, None, packed_seq_params=packed)


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
