"""Metrics of a batch: summed over rows and ranks, combined over its optimiser steps."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_rl.learner.device.parallel import Parallel, from_last_stage


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


def combined(records: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return a batch's metrics from those of its steps.

    Means, except for sums of ``*_steps`` and ``*_tokens``, and maxima of ``*_max``.
    """
    results = {}
    for name in records[0]:
        values = [record[name] for record in records]
        if name.endswith("_max"):
            results[name] = max(values)
        elif name.endswith(("_steps", "_tokens")):
            results[name] = sum(values)
        else:
            results[name] = sum(values) / len(values)
    return results
