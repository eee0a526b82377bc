"""``megatron-rl rollout``: problems to completions to batches, while the learner trains.

Normally batches follow the learner, at most ``rollout.max_steps_ahead`` in front, and held-out
problems are evaluated before, during and after training. With ``--standalone`` there is no learner:
batches are filled from whatever servers are registered.
"""

import argparse
import asyncio
import functools
import logging
import time
import uuid
from collections.abc import Coroutine, Sequence
from fractions import Fraction
from typing import Any

from megatron_rl.batch import Batch
from megatron_rl.batch_files import FileBatchSink
from megatron_rl.config import RolloutConfig, RunConfig, loss_settings
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.errors import MegatronRLError
from megatron_rl.programs.builders.inference import (
    POLL_S,
    InferenceClients,
    open_inference,
    training_sampling,
)
from megatron_rl.programs.builders.judge import reward_fn
from megatron_rl.programs.builders.prompts import (
    load_tokenizer,
)
from megatron_rl.programs.campaign.current_stage import ends_the_run, refuse_unplaced
from megatron_rl.programs.curriculum.recorded import RecordedCurriculum
from megatron_rl.programs.curriculum.shares import mean_group_size
from megatron_rl.programs.curriculum.sources import (
    curriculum_sources,
    load_train_sources,
)
from megatron_rl.programs.loops.barren_record import BarrenRecord
from megatron_rl.programs.loops.evaluation_rounds import (
    evaluate_after,
    evaluate_before,
    evaluate_during,
    open_evaluations,
)
from megatron_rl.programs.loops.evaluation_schedule import is_last_recorded
from megatron_rl.programs.loops.first_look import look, record
from megatron_rl.programs.loops.held_out import LoadedSet, load_held_out
from megatron_rl.programs.loops.throughput import ThroughputMetrics
from megatron_rl.programs.loops.waiting import has_version, wait_until
from megatron_rl.programs.processes.asyncio_signals import run_until_signal
from megatron_rl.protocols import GroupCurriculum
from megatron_rl.rollout.assemble import assemble_batch
from megatron_rl.rollout.barren import BarrenWatch
from megatron_rl.rollout.collector import Collected, Collector, CollectorLimits
from megatron_rl.rollout.rollout_metrics import staleness_metrics
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Cursor

_LOG = logging.getLogger(__name__)
_BARREN_PACE_S = 60.0


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Run to the last batch and return the exit code.

    Args:
        config: the run.
        options: ``standalone`` and ``num_batches``, see the command line.

    Raises:
        DataError, ModelError: what is asked cannot be used; raised before anything starts.
    """
    refuse_unplaced(config, "rollout")
    tokenizer = load_tokenizer(config.model.path)
    train = curriculum_sources(config, load_train_sources(config, tokenizer))
    if options.standalone:
        return run_until_signal(_run_standalone(config, options.num_batches, train, tokenizer))
    held_out = load_held_out(config, tokenizer)
    return run_until_signal(_run(config, options.num_batches, train, held_out, tokenizer))


async def _run_standalone(
    config: RunConfig, num_batches: int | None, train: Sequence[CurriculumSource], tokenizer: Any
) -> None:
    sink = FileBatchSink(RunDir(config.run_dir), max_steps_ahead=None, poll_s=POLL_S)
    async with open_inference(config, tokenizer, admit="standalone") as clients:
        what = "a server with weights of its own (serve without --await-weights)"
        await wait_until(lambda: clients.router.snapshot().num_routable > 0, what)
        await _collect(config, clients, sink, train, num_batches, is_followed=False)


async def _run(
    config: RunConfig,
    num_batches: int | None,
    train: Sequence[CurriculumSource],
    held_out: Sequence[LoadedSet],
    tokenizer: Any,
) -> None:
    run_dir, names = RunDir(config.run_dir), [loaded.settings.name for loaded in held_out]
    is_collected_before = run_dir.batch(config.num_steps - 1).exists()
    is_last = ends_the_run(config, config.num_steps)
    if is_collected_before and (
        not is_last or is_last_recorded(run_dir, num_steps=config.num_steps, sets=names)
    ):
        _LOG.info("nothing is left to do")
        return
    ahead = config.rollout.steps_ahead
    sink = FileBatchSink(run_dir, max_steps_ahead=ahead, poll_s=POLL_S)
    async with open_inference(config, tokenizer, admit="acknowledged") as clients:
        # A learner that loads, or a whole cold start, may come before the first publication.
        await wait_until(
            lambda: clients.router.snapshot().num_routable > 0, "a server with current weights"
        )
        evaluated = open_evaluations(config, clients, held_out)
        await _run_all(*(evaluate_before(clients, each) for each in evaluated))
        is_collected = asyncio.Event()

        async def collect() -> None:
            await _collect(config, clients, sink, train, num_batches, is_followed=True)
            is_collected.set()

        during = (evaluate_during(config, clients, each, is_collected) for each in evaluated)
        await _run_all(_look_once(config, clients, train), collect(), *during)
        if is_last and await asyncio.to_thread(sink.next_step) >= config.num_steps:
            await _run_all(*(evaluate_after(config, clients, each) for each in evaluated))


async def _look_once(
    config: RunConfig, clients: InferenceClients, train: Sequence[CurriculumSource]
) -> None:
    """Sum up the first samples of a run, beside its first batch."""
    path, num_groups = RunDir(config.run_dir).first_samples, config.rollout.first_look
    if path.exists() or num_groups == 0:
        return
    try:
        _, first = await look(config, clients, train, num_groups=num_groups)
    except MegatronRLError as error:
        # What matters to the run fails there again.
        _LOG.warning("no first look at samples: %s", error)
        return
    await asyncio.to_thread(record, path, first)


async def _collect(
    config: RunConfig,
    clients: InferenceClients,
    sink: FileBatchSink,
    train: Sequence[CurriculumSource],
    num_batches: int | None,
    *,
    is_followed: bool,
) -> None:
    """Write batches up to the last; ``is_followed`` by a learner, which must not be overtaken."""
    position = await asyncio.to_thread(sink.position)
    end = config.num_steps if num_batches is None else position.step + num_batches
    if is_followed:
        end = min(end, config.num_steps)
    throughput = ThroughputMetrics(
        clients.router.snapshot, clients.judge.stats, clock=time.monotonic
    )
    lag = config.rollout.fixed_lag if is_followed else None
    curriculum = await asyncio.to_thread(
        RecordedCurriculum, config, train, step=position.step, cursor=position.cursor
    )
    async with _collector(config, clients, curriculum.of_groups, position.cursor) as collector:
        for step in range(position.step, end):
            if lag is not None:
                oldest = max(0, step - lag)
                await wait_until(
                    functools.partial(has_version, clients, oldest), f"version {oldest}"
                )
            collected = await collector.next_batch()
            records, standing = curriculum.take_batch()
            measured = {**throughput.metrics(), **standing}
            batch = await asyncio.to_thread(_assemble, config, collected, step, measured)
            await asyncio.to_thread(curriculum.write, step, records)
            await sink.put(step, batch)
            _LOG.info(
                "batch %d of %d: reward %.4f, %d groups dropped",
                *(step, end, batch.metrics["reward/total"]),
                batch.metrics["rollout/dropped_groups"],
            )


def _assemble(
    config: RunConfig, collected: Collected, step: int, measured: dict[str, float]
) -> Batch:
    loss = loss_settings(config.algorithm)
    staleness = staleness_metrics(collected.groups, step=step)
    return assemble_batch(
        collected.groups,
        n_minibatch=config.rollout.minibatch,
        scale=loss.advantages,
        aggregation=loss.aggregation,
        max_tokens=config.generators.sampling.max_new_tokens,
        cursor=collected.cursor,
        metrics={**collected.metrics, **staleness, **measured},
    )


def _collector(
    config: RunConfig, clients: InferenceClients, curriculum: GroupCurriculum, cursor: Cursor
) -> Collector:
    sampling = config.generators.sampling
    limits = collector_limits(
        config.rollout, group_size=mean_group_size(config), max_queue=config.judge.max_queue
    )
    barren = BarrenWatch(
        first_report=limits.groups_per_batch,
        pace_s=_BARREN_PACE_S,
        limit=config.rollout.barren_limit,
        report=BarrenRecord(RunDir(config.run_dir).barren).report,
        clock=time.monotonic,
    )
    return Collector(
        lease=clients.router.lease,
        sampling=training_sampling(sampling),
        judge=clients.judge,
        reward=reward_fn(config.reward, max_tokens=sampling.max_new_tokens),
        read=clients.read,
        curriculum=curriculum,
        cursor=cursor,
        limits=limits,
        drop_rule=config.rollout.drop_zero_advantage,
        barren=barren,
        request_prefix=f"train-{uuid.uuid4().hex[:8]}",
    )


def collector_limits(
    rollout: RolloutConfig, *, group_size: Fraction, max_queue: int
) -> CollectorLimits:
    """Count in groups, of a mean ``group_size``, what the configuration counts in completions."""
    groups_per_batch = -(-rollout.n_batch // group_size)
    max_lag_groups = rollout.max_lag_groups
    if max_lag_groups is None:
        # While one group runs, n_async / group_size complete per mean running time. Less than what
        # completes during the longest one would prefer short groups (tests/unit/rollout shows it).
        max_lag_groups = max(2 * groups_per_batch, 3 * rollout.n_async // group_size)
    return CollectorLimits(
        n_async=rollout.n_async,
        n_batch=rollout.n_batch,
        groups_per_batch=groups_per_batch,
        max_open_groups=-(-rollout.n_async // group_size) + rollout.steps_ahead * groups_per_batch,
        max_lag_groups=max_lag_groups,
        max_unjudged=max_queue,
        is_sync=rollout.fixed_lag is not None,
    )


async def _run_all(*programs: Coroutine[Any, Any, None]) -> None:
    """Run to the end of all; when one fails, or when cancelled, end the others first."""
    tasks = [asyncio.ensure_future(program) for program in programs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
