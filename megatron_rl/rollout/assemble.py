"""Batch assembly: minibatches of whole groups, with advantages and token weights of each."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from megatron_rl.algorithm.advantages import group_advantages, token_weights
from megatron_rl.batch import Batch, make_batch
from megatron_rl.types import Cursor, Group


def assemble_batch(
    groups: Sequence[Group],
    *,
    n_minibatch: int,
    scale: Literal["minibatch", "group", "none"],
    aggregation: Literal["group", "token", "sequence", "constant"],
    max_tokens: int,
    cursor: Cursor,
    metrics: Mapping[str, float],
) -> Batch:
    """Lay ``groups`` out as a batch, in their order; minibatch i takes the i-th run of groups.

    Args:
        groups: the groups of the batch in start order.
        n_minibatch: completions of one optimiser step. A minibatch ends with the group with which
            the batch has as many for each of its minibatches so far, or some more where groups
            differ in size.
        scale: see ``group_advantages``.
        aggregation: see ``token_weights``.
        max_tokens: longest completion that can be sampled.
        cursor: the curriculum after this batch.
        metrics: what was measured while filling it.
    """
    advantages, weights, minibatches = [], [], []
    for number, part in enumerate(_minibatches(groups, n_minibatch)):
        members = [(group.index, sample) for group in part for sample in group.samples]
        groups_N = np.array([index for index, _ in members])
        rewards_N = np.array([sample.reward.total for _, sample in members])
        lengths_N = np.array([len(sample.completion.token_ids) for _, sample in members])
        masked_N = np.array([sample.reward.is_masked for _, sample in members])
        advantages.append(group_advantages(rewards_N, groups_N, scale=scale))
        weights.append(
            token_weights(
                lengths_N, groups_N, masked_N, aggregation=aggregation, max_tokens=max_tokens
            )
        )
        minibatches.append(np.full(len(members), number, dtype=np.int64))
    return make_batch(
        groups,
        advantages_N=np.concatenate(advantages),
        weights_N=np.concatenate(weights),
        minibatches_N=np.concatenate(minibatches),
        cursor=cursor,
        metrics=metrics,
    )


def _minibatches(groups: Sequence[Group], n_minibatch: int) -> list[list[Group]]:
    assert all(len(group.samples) <= n_minibatch for group in groups), "or one would be empty"
    parts: list[list[Group]] = []
    num_before = 0
    for group in groups:
        if num_before >= n_minibatch * len(parts):
            parts.append([])
        parts[-1].append(group)
        num_before += len(group.samples)
    return parts
