"""Packed rows through the model: forward only, or forward and backward.

Shape letters: T = tokens of one packed row, V = this rank's part of the vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_rl.algorithm.packing import PackedRow
from megatron_rl.learner.logprobs import token_logprobs_and_entropy
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


RowLoss = Callable[[Tensor, Tensor, DeviceRow], tuple[Tensor, dict[str, Tensor]]]
"""(logprobs_T, entropy_T, row) -> (scalar loss, metrics), all weighted sums."""


class RowRunner:
    """Runs rows through a model with Megatron's schedule."""

    def __init__(
        self,
        model: DistributedDataParallel,
        parallel: Parallel,
        device: torch.device,
        *,
        vocab_size: int,
    ) -> None:
        self._model = model
        self._parallel = parallel
        self._device = device
        self._vocab_size = vocab_size
        self._schedule = get_forward_backward_func()
        _connect_schedule(model)

    def train(
        self, rows: Sequence[PackedRow], loss: RowLoss, *, temperature: float
    ) -> dict[str, float]:
        """Accumulate the gradients of all rows; return the metrics summed over rows and ranks."""
        results = self._run(rows, loss, temperature=temperature, forward_only=False)
        return sum_over_rows_and_ranks(results, self._parallel.dp_group)

    def logprobs(self, rows: Sequence[PackedRow], *, temperature: float) -> list[Tensor]:
        """Return the [T] log-probability of every target of each row, without gradients."""

        def keep(logprobs_T: Tensor, _: Tensor, __: DeviceRow) -> tuple[Tensor, dict[str, Tensor]]:
            return logprobs_T.sum(), {"logprobs_T": logprobs_T}

        results = self._run(rows, keep, temperature=temperature, forward_only=True)
        return [result["logprobs_T"] for result in results]

    def _run(
        self,
        rows: Sequence[PackedRow],
        loss: RowLoss,
        *,
        temperature: float,
        forward_only: bool,
    ) -> list[dict[str, Tensor]]:
        def forward_step(iterator: Iterator[DeviceRow], model: Any) -> Any:
            row = next(iterator)
            logits_TV = self._logits(model, row)

            def weighted_sums(logits_TV: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
                logprobs_T, entropy_T = self._score(logits_TV, row, temperature)
                value, metrics = loss(logprobs_T, entropy_T, row)
                # The token count is ignored by _finalize_without_averaging.
                count = torch.zeros([], dtype=torch.int, device=self._device)
                return value, count, metrics

            return logits_TV, weighted_sums

        return self._schedule(
            forward_step_func=forward_step,
            data_iterator=(to_device(row, self._device) for row in rows),
            model=self._model,
            num_microbatches=len(rows),
            seq_length=max(len(row.token_ids_T) for row in rows),
            micro_batch_size=1,
            forward_only=forward_only,
        )

    def _logits(self, model: Any, row: DeviceRow) -> Tensor:
        packed = PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=row.cu_seqlens,
            cu_seqlens_kv=row.cu_seqlens,
            max_seqlen_q=row.longest,
            max_seqlen_kv=row.longest,
        )
        logits = model(row.token_ids_T[None], row.positions_T[None], None, packed_seq_params=packed)
        return logits[0]

    def _score(self, logits_TV: Tensor, row: DeviceRow, temperature: float) -> Any:
        part = logits_TV.shape[1]
        first = self._parallel.tp_rank * part
        return token_logprobs_and_entropy(
            logits_TV,
            row.targets_T,
            temperature=temperature,
            num_real=min(part, max(0, self._vocab_size - first)),
            tp_group=self._parallel.tp_group,
        )


def to_device(row: PackedRow, device: torch.device) -> DeviceRow:
    """Copy a row's arrays to the device."""

    def tensor(array: Any) -> Tensor:
        return torch.from_numpy(array).to(device)

    return DeviceRow(
        token_ids_T=tensor(row.token_ids_T),
        targets_T=tensor(row.targets_T),
        positions_T=tensor(row.positions_T),
        cu_seqlens=tensor(row.cu_seqlens),
        longest=int((row.cu_seqlens[1:] - row.cu_seqlens[:-1]).max()),
        behavior_logprobs_T=tensor(row.behavior_logprobs_T),
        advantages_T=tensor(row.advantages_T),
        weights_T=tensor(row.weights_T),
    )


def sum_over_rows_and_ranks(
    results: Sequence[Mapping[str, Tensor]], group: dist.ProcessGroup
) -> dict[str, float]:
    """Add up weighted-sum metrics over the rows of this rank and over the ranks."""
    names = sorted(results[0])
    totals = torch.stack(
        [torch.stack([row[name].detach().float() for row in results]).sum() for name in names]
    )
    dist.all_reduce(totals, group=group)
    return dict(zip(names, totals.tolist(), strict=True))


def _connect_schedule(model: DistributedDataParallel) -> None:
    """Hand Megatron's schedule the functions it calls around a backward pass."""
    config, ddp = model.config, model.ddp_config
    config.finalize_model_grads_func = _finalize_without_averaging
    if ddp.overlap_grad_reduce:
        config.no_sync_func = model.no_sync


def _finalize_without_averaging(model: Any, _: Any = None, **kwargs: Any) -> None:
    """Reduce gradients over ranks and leave their scale alone.

    This is the one place that neutralises Megatron's averaging: token weights already sum to 1
    over the global minibatch, so gradients only have to be summed.
    """
    finalize_model_grads(model, None, **kwargs)
