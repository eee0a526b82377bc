"""Evaluations of a run's held-out sets: before, during and after training, each set by itself.

All sets share what may be in flight, so that one with long completions does not keep generators
idle, nor others waiting.
"""

import asyncio
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_rl.config import RunConfig
from megatron_rl.programs.builders.inference import POLL_S, InferenceClients, Sampler
from megatron_rl.programs.loops.evaluation_schedule import Evaluations
from megatron_rl.programs.loops.held_out import LoadedSet, evaluate_set
from megatron_rl.programs.loops.waiting import has_version, wait_until
from megatron_rl.run_dir import RunDir
from megatron_rl.telemetry import TensorBoardSink


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedSet:
    """Evaluations of one held-out set, and how often they are due."""

    evaluations: Evaluations
    every: int


def open_evaluations(
    config: RunConfig, clients: InferenceClients, held_out: Sequence[LoadedSet]
) -> list[EvaluatedSet]:
    """Go on with the evaluations that are in the run folder."""
    run_dir, sampler = RunDir(config.run_dir), Sampler(config, clients)
    sinks = []
    if config.telemetry.tensorboard and held_out:
        sinks.append(TensorBoardSink(run_dir.tensorboard / "evaluation", purge_step=None))
    return [
        EvaluatedSet(
            evaluations=Evaluations(
                run_dir,
                set_name=loaded.settings.name,
                place=place,
                measure=functools.partial(evaluate_set, loaded, sampler),
                current_version=clients.router.current_version,
                sinks=sinks,
            ),
            every=loaded.settings.every,
        )
        for place, loaded in enumerate(held_out)
    ]


async def evaluate_before(clients: InferenceClients, evaluated: EvaluatedSet) -> None:
    """Evaluate the policy that training starts from, unless it is further already."""
    evaluations = evaluated.evaluations
    while not evaluations.has("before", version=0) and await _next_version(clients) == 0:
        await evaluations.run("before", version=0)


async def evaluate_during(
    config: RunConfig,
    clients: InferenceClients,
    evaluated: EvaluatedSet,
    is_collected: asyncio.Event,
) -> None:
    """Evaluate due versions while batches are collected; the last version is not ours."""
    while not is_collected.is_set():
        version = clients.router.current_version()
        if version is not None and version < config.num_steps:
            due = evaluated.evaluations.due(version, every=evaluated.every)
            if due is not None:
                await evaluated.evaluations.run("during", version=due)
        await asyncio.sleep(POLL_S)


async def evaluate_after(
    config: RunConfig, clients: InferenceClients, evaluated: EvaluatedSet
) -> None:
    """Evaluate the last version, once it is published."""
    last = config.num_steps
    while not evaluated.evaluations.has("after", version=last):
        await wait_until(functools.partial(has_version, clients, last), f"version {last}")
        await evaluated.evaluations.run("after", version=last)


async def _next_version(clients: InferenceClients) -> int:
    """Return the published version, waiting for it while a learner that restarts has taken it
    back."""
    await wait_until(functools.partial(has_version, clients, 0), "the learner")
    version = clients.router.current_version()
    assert version is not None, "nothing else ran since it was there"
    return version
