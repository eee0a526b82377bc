"""Groups of several sources in one collector: sizes of their own, whole batches, metrics."""

import asyncio
from typing import Any

import pytest

from megatron_rl.rollout.rollout_metrics import outcomes_of
from megatron_rl.rollout.source_metrics import source_metrics
from megatron_rl.types import Assignment, Problem, Response, Verdict
from tests.unit.records import make_group, make_sample
from tests.unit.rollout.test_collector import (
    Generator,
    assign,
    collect,
    heavy_tailed,
    indices,
    make_collector,
    run,
)

SIZES = {"a": 4, "b": 2}


def assign_mixed(index: int) -> Assignment:
    """Give every third group to "b", whose groups are half as large."""
    source = "b" if index % 3 == 2 else "a"
    return assign(index, group_size=SIZES[source], source=source)


@pytest.mark.parametrize("is_sync", [False, True])
def test_a_batch_ends_with_the_group_that_fills_it(is_sync: bool):
    collector = make_collector(
        Generator(heavy_tailed), assign=assign_mixed, n_batch=12, is_sync=is_sync
    )
    batches = collect(collector, 4)
    # 4 + 4 + 2 + 4, then 4 + 2 + 4 + 4, and so on.
    assert indices(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    for batch in batches:
        for group in batch.groups:
            assert len(group.samples) == SIZES[group.source]


def test_sync_starts_completions_and_not_groups_until_a_batch_is_there():
    generator = Generator(lambda *_: 1)

    async def scenario() -> Any:
        collector = make_collector(generator, assign=assign_mixed, n_batch=12, is_sync=True)
        async with collector:
            first = await collector.next_batch()
            await asyncio.sleep(0.02)
            return first

    first = run(scenario())
    assert [len(group.samples) for group in first.groups] == [4, 4, 2, 4]
    assert len(generator.begun) == 14


def test_metrics_tell_the_sources_apart():
    async def judge(problem: Problem, response: Response) -> Verdict:
        is_b = int(problem.id[1:]) % 3 == 2
        return Verdict(format_ok=True, correct=is_b or response.answer == "0")

    (batch,) = collect(
        make_collector(
            Generator(lambda index, _: 3 if index % 3 == 2 else 1),
            assign=assign_mixed,
            judge=judge,
            n_batch=16,
            n_async=4,
        ),
        1,
    )
    metrics = batch.metrics
    assert indices([batch]) == [[0, 1, 3, 4]]  # every group of b is all right, and dropped
    assert metrics["source/a/groups"] == 4
    assert metrics["source/a/correct"] == metrics["source/a/reward"] == 0.25
    assert metrics["source/a/dropped"] == 0
    assert metrics["source/a/trained_share"] == 1
    assert metrics["source/b/groups"] == metrics["rollout/dropped_groups"] >= 1
    assert metrics["source/b/correct"] == metrics["source/b/dropped"] == 1
    assert (metrics["source/a/length_mean"], metrics["source/b/length_mean"]) == (1, 3)
    assert metrics["source/b/trained_share"] == 0


def test_without_a_mixture_there_are_no_metrics_of_sources():
    (batch,) = collect(make_collector(Generator(lambda *_: 1)), 1)
    assert not [name for name in batch.metrics if name.startswith("source/")]
    group = make_group(0, make_sample(), make_sample(is_masked=True))
    assert source_metrics([group], outcomes_of(group), dropped_groups={}) == {}
