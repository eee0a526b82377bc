"""Rank of the stage "layouts": the same step at one layout after the other."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from megatron_rl.learner.device.parallel import (
    RankInfo,
    initialize_parallel,
    rank_from_environment,
    shut_down_parallel,
)
from megatron_rl.learner.device.platform import Platform, detect_platform
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.programs.gpu_stages.learning.layers import model_folder
from megatron_rl.programs.gpu_stages.learning.layouts import ALONE, LAYOUTS, PORTS
from megatron_rl.programs.gpu_stages.learning.policy import (
    learner_of,
    logprobs_of,
    make_sequences,
    mean_error,
)
from megatron_rl.programs.gpu_stages.tolerances import LOGPROB_MEAN
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place

_WHY = "the same sums of bf16 products in another order; a part that is missing or counted twice "
_LOSS = Limit(at_most=0.02, reason=f"{_WHY}is off by a tenth and more")
_GRADIENT = Limit(at_most=0.05, reason=f"{_WHY}is off by a third and more")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """What one layout computes: log-probs, then a step."""

    logprobs: torch.Tensor
    loss: float
    grad_norm: float


def be_rank(place: Place) -> Outcome:
    """Take the step at one layout after the other; the first rank takes it alone before that."""
    info = rank_from_environment(os.environ)
    platform = detect_platform(cpu_threads=1, local_rank=info.local_rank)
    platform.install()
    alone = None
    if info.rank == 0:
        alone = _take_step(place, platform, replace(info, rank=0, world_size=1), ALONE)
    figures: list[Figure] = []
    for name, port in json.loads((place.folder / PORTS).read_text()).items():
        os.environ["MASTER_PORT"] = str(port)
        step = _take_step(place, platform, info, LAYOUTS[name])
        if alone is not None:
            figures += _figures(name, step, alone)
    return Outcome(figures=figures)


def _take_step(place: Place, platform: Platform, info: RankInfo, layout: Layout) -> _Step:
    parallel = initialize_parallel(info, platform, layout, seed=0)
    learner, sequences = learner_of(model_folder(place), parallel, platform), make_sequences()
    logprobs = logprobs_of(learner, sequences)
    metrics = learner.update_supervised(sequences)
    shut_down_parallel()
    return _Step(logprobs=logprobs, loss=metrics["sft/loss"], grad_norm=metrics["sft/grad_norm"])


def _figures(name: str, step: _Step, alone: _Step) -> Iterator[Figure]:
    yield Figure(
        name=f"{name}: log-probs, mean difference",
        value=mean_error(step.logprobs, alone.logprobs),
        limit=LOGPROB_MEAN,
    )
    yield Figure(
        name=f"{name}: loss, relative difference",
        value=abs(step.loss / alone.loss - 1),
        limit=_LOSS,
    )
    yield Figure(
        name=f"{name}: gradient norm, relative difference",
        value=abs(step.grad_norm / alone.grad_norm - 1),
        limit=_GRADIENT,
    )
