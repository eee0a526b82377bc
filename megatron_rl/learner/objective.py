"""Row losses on the device, as the learner hands them to its runner.

Shape letters: T = the tokens of a packed row that this rank holds, S = sequences of the row.
"""

import functools
from collections.abc import Callable

import torch.distributed as dist
from torch import Tensor

from megatron_rl.algorithm.losses import (
    PolicyObjective,
    negative_log_likelihood,
    policy_objective,
    sum_over_sequence,
)
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.learner.device_rows import DeviceRow
from megatron_rl.learner.forward import RowLoss


def policy_loss(objective: PolicyObjective, parallel: Parallel, *, weight_sum: float) -> RowLoss:
    """Return the loss of one minibatch's rows; ``weight_sum`` is what its token weights add up to.

    Where ranks share the tokens of a sequence, they add up what a sequence-level ratio needs.
    """
    add_up = _adder(parallel.cp_group) if parallel.layout.cp > 1 else None

    def loss(
        logprobs_T: Tensor, entropy_T: Tensor, row: DeviceRow
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return policy_objective(
            objective,
            logprobs_T=logprobs_T,
            entropy_T=entropy_T,
            behavior_logprobs_T=row.behavior_logprobs_T,
            old_logprobs_T=row.old_logprobs_T,
            reference_logprobs_T=row.reference_logprobs_T,
            advantages_T=row.advantages_T,
            weights_T=row.weights_T,
            weight_sum=weight_sum,
            sum_over_sequence=functools.partial(
                sum_over_sequence, lengths_S=row.sequence_lengths_S, add_up=add_up
            ),
        )

    return loss


def supervised_loss(
    logprobs_T: Tensor, _: Tensor, row: DeviceRow
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of demonstrations."""
    loss = negative_log_likelihood(logprobs_T, row.weights_T)
    return loss, {"policy/loss": loss.detach()}


def _adder(group: dist.ProcessGroup) -> Callable[[Tensor], None]:
    def add_up(sums_S: Tensor) -> None:
        dist.all_reduce(sums_S, group=group)

    return add_up
