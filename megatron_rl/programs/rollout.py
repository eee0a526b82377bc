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
from collections.abc import Callable, Coroutine
from typing import Any

from megatron_rl.batch import Batch
from megatron_rl.batch_files import FileBatchSink
from megatron_rl.config import RolloutConfig, RunConfig, loss_settings
from megatron_rl.data.curriculum import problem_at
from megatron_rl.errors import MegatronRLError
from megatron_rl.programs.builders.inference import (
    POLL_S,
    InferenceClients,
    evaluate_served_policy,
    open_inference,
    training_sampling,
)
from megatron_rl.programs.builders.judge import reward_fn
from megatron_rl.programs.builders.prompts import (
    PromptSet,
    evaluation_source,
    load_run_prompts,
    load_tokenizer,
    training_source,
)
from megatron_rl.programs.loops.barren_record import BarrenRecord
from megatron_rl.programs.loops.evaluation_schedule import Evaluations, is_last_recorded
from megatron_rl.programs.loops.first_look import look, record
from megatron_rl.programs.loops.throughput import ThroughputMetrics
from megatron_rl.programs.processes.asyncio_signals import run_until_signal
from megatron_rl.rollout.assemble import assemble_batch
from megatron_rl.rollout.barren import BarrenWatch
from megatron_rl.rollout.collector import Collected, Collector, CollectorLimits
from megatron_rl.rollout.rollout_metrics import staleness_metrics
from megatron_rl.run_dir import RunDir
from megatron_rl.telemetry import TensorBoardSink
from megatron_rl.types import Cursor, Problem

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
    tokenizer = load_tokenizer(config.model.path)
    train = load_run_prompts(config, training_source(config.data), tokenizer)
    if options.standalone:
        return run_until_signal(_run_standalone(config, options.num_batches, train, tokenizer))
    source = evaluation_source(config.data)
    held_out = None if source is None else load_run_prompts(config, source, tokenizer)
    return run_until_signal(_run(config, options.num_batches, train, held_out, tokenizer))


async def _run_standalone(
    config: RunConfig, num_batches: int | None, train: PromptSet, tokenizer: Any
) -> None:
    sink = FileBatchSink(RunDir(config.run_dir), max_steps_ahead=None, poll_s=POLL_S)
    async with open_inference(config, tokenizer, admit="standalone") as clients:
        what = "a server with weights of its own (serve without --await-weights)"
        await _wait_until(lambda: clients.router.snapshot().num_routable > 0, what)
        await _collect(config, clients, sink, train, num_batches, is_followed=False)


async def _run(
    config: RunConfig,
    num_batches: int | None,
    train: PromptSet,
    held_out: PromptSet | None,
    tokenizer: Any,
) -> None:
    run_dir = RunDir(config.run_dir)
    is_collected_before = run_dir.batch(config.num_steps - 1).exists()
    if is_collected_before and (
        held_out is None or is_last_recorded(RunDir(config.run_dir), num_steps=config.num_steps)
    ):
        _LOG.info("nothing is left to do")
        return
    ahead = config.rollout.steps_ahead
    sink = FileBatchSink(run_dir, max_steps_ahead=ahead, poll_s=POLL_S)
    async with open_inference(config, tokenizer, admit="acknowledged") as clients:
        # A learner that loads, or a whole cold start, may come before the first publication.
        await _wait_until(
            lambda: clients.router.snapshot().num_routable > 0, "a server with current weights"
        )
        looking = _look_once(config, clients, train)
        if held_out is None:
            collecting = _collect(config, clients, sink, train, num_batches, is_followed=True)
            await _run_all(looking, collecting)
            return
        evaluations = _open_evaluations(config, clients, held_out)
        while not evaluations.has("before", version=0) and await _next_version(clients) == 0:
            await evaluations.run("before", version=0)
        is_collected = asyncio.Event()

        async def collect() -> None:
            await _collect(config, clients, sink, train, num_batches, is_followed=True)
            is_collected.set()

        await _run_all(
            looking, collect(), _evaluate_during(config, clients, evaluations, is_collected)
        )
        if await asyncio.to_thread(sink.next_step) >= config.num_steps:
            await _evaluate_after(config, clients, evaluations)


async def _look_once(config: RunConfig, clients: InferenceClients, train: PromptSet) -> None:
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
    train: PromptSet,
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
    async with _collector(config, clients, train, position.cursor) as collector:
        for step in range(position.step, end):
            if lag is not None:
                oldest = max(0, step - lag)
                await _wait_until(
                    functools.partial(_has_version, clients, oldest), f"version {oldest}"
                )
            collected = await collector.next_batch()
            batch = await asyncio.to_thread(
                _assemble, config, collected, step, throughput.metrics()
            )
            await sink.put(step, batch)
            _LOG.info(
                "batch %d of %d: reward %.4f, %d groups dropped",
                *(step, end, batch.metrics["reward/total"]),
                batch.metrics["rollout/dropped_groups"],
            )


def _assemble(
    config: RunConfig, collected: Collected, step: int, measured: dict[str, float]
) -> Batch:
    rollout, loss = config.rollout, loss_settings(config.algorithm)
    n_minibatch = rollout.n_batch if rollout.n_minibatch is None else rollout.n_minibatch
    staleness = staleness_metrics(collected.groups, step=step)
    return assemble_batch(
        collected.groups,
        groups_per_minibatch=n_minibatch // rollout.group_size,
        scale=loss.advantages,
        aggregation=loss.aggregation,
        max_tokens=config.generators.sampling.max_new_tokens,
        cursor=collected.cursor,
        metrics={**collected.metrics, **staleness, **measured},
    )


def _collector(
    config: RunConfig, clients: InferenceClients, train: PromptSet, cursor: Cursor
) -> Collector:
    sampling = config.generators.sampling

    def prompt_at(index: int) -> tuple[Problem, tuple[int, ...]]:
        position = problem_at(
            index,
            num_problems=len(train.problems),
            seed=config.seed,
            shuffle=config.data.shuffle,
        )
        return train.problems[position], train.prompts[position]

    limits = collector_limits(config.rollout, max_queue=config.judge.max_queue)
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
        prompt_at=prompt_at,
        cursor=cursor,
        limits=limits,
        drop_rule=config.rollout.drop_zero_advantage,
        barren=barren,
        request_prefix=f"train-{uuid.uuid4().hex[:8]}",
    )


def collector_limits(rollout: RolloutConfig, *, max_queue: int) -> CollectorLimits:
    """Count in groups what the configuration counts in completions."""
    groups_per_batch = rollout.n_batch // rollout.group_size
    max_lag_groups = rollout.max_lag_groups
    if max_lag_groups is None:
        # While one group runs, n_async / group_size complete per mean running time. Less than what
        # completes during the longest one would prefer short groups (tests/unit/rollout shows it).
        max_lag_groups = max(2 * groups_per_batch, 3 * rollout.n_async // rollout.group_size)
    return CollectorLimits(
        n_async=rollout.n_async,
        group_size=rollout.group_size,
        groups_per_batch=groups_per_batch,
        max_open_groups=-(-rollout.n_async // rollout.group_size)
        + rollout.steps_ahead * groups_per_batch,
        max_lag_groups=max_lag_groups,
        max_unjudged=max_queue,
        is_sync=rollout.fixed_lag is not None,
    )


def _open_evaluations(
    config: RunConfig, clients: InferenceClients, held_out: PromptSet
) -> Evaluations:
    run_dir = RunDir(config.run_dir)
    num_samples = config.evaluation.num_samples
    sinks = []
    if config.telemetry.tensorboard:
        sinks.append(TensorBoardSink(run_dir.tensorboard / "evaluation", purge_step=None))
    return Evaluations(
        run_dir.evaluations,
        measure=functools.partial(
            evaluate_served_policy, config, clients, held_out, num_samples=num_samples
        ),
        current_version=clients.router.current_version,
        sinks=sinks,
    )


async def _evaluate_during(
    config: RunConfig,
    clients: InferenceClients,
    evaluations: Evaluations,
    is_collected: asyncio.Event,
) -> None:
    """Evaluate due versions while batches are collected; the last version is not ours."""
    while not is_collected.is_set():
        version = clients.router.current_version()
        is_ours = version is not None and version < config.num_steps
        if is_ours and evaluations.is_due(version, every=config.evaluation.every):
            await evaluations.run("during", version=version)
        await asyncio.sleep(POLL_S)


async def _evaluate_after(
    config: RunConfig, clients: InferenceClients, evaluations: Evaluations
) -> None:
    last = config.num_steps
    while not evaluations.has("after", version=last):
        await _wait_until(functools.partial(_has_version, clients, last), f"version {last}")
        await evaluations.run("after", version=last)


async def _next_version(clients: InferenceClients) -> int:
    """Return the published version, waiting for it while a learner that restarts has taken it
    back."""
    await _wait_until(functools.partial(_has_version, clients, 0), "the learner")
    version = clients.router.current_version()
    assert version is not None, "nothing else ran since it was there"
    return version


def _has_version(clients: InferenceClients, version: int) -> bool:
    current = clients.router.current_version()
    return current is not None and current >= version


async def _wait_until(is_true: Callable[[], bool], what: str) -> None:
    """Poll until another program makes it true; the launcher watches whether that program lives."""
    if not is_true():
        _LOG.info("waiting for %s", what)
    while not is_true():
        await asyncio.sleep(POLL_S)


async def _run_all(*programs: Coroutine[Any, Any, None]) -> None:
    """Run to the end of all; when one fails, or when cancelled, end the others first."""
    tasks = [asyncio.ensure_future(program) for program in programs]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
