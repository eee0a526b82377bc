"""First look at what a policy samples: a few groups, summed up before much is spent on more."""

import dataclasses
import json
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

from megatron_rl.config import RunConfig
from megatron_rl.data.curriculum import problem_at
from megatron_rl.programs.builders.inference import InferenceClients, training_sampling
from megatron_rl.programs.builders.judge import reward_fn
from megatron_rl.programs.builders.prompts import PromptSet
from megatron_rl.rollout.first_samples import (
    FirstSamples,
    SamplingParts,
    sample_groups,
    sum_up,
    warnings_of,
)
from megatron_rl.run_dir import write_json
from megatron_rl.types import Group

_LOG = logging.getLogger(__name__)


async def look(
    config: RunConfig, clients: InferenceClients, train: PromptSet, *, num_groups: int
) -> tuple[list[Group], FirstSamples]:
    """Sample the first problems of the curriculum as training will, and sum them up.

    Raises:
        VerifierError: no completion has a verdict.
        GeneratorRequestError, GeneratorUnavailableError: no server answers.
    """
    sampling, size = config.generators.sampling, config.rollout.group_size
    positions = [
        problem_at(
            index, num_problems=len(train.problems), seed=config.seed, shuffle=config.data.shuffle
        )
        for index in range(min(num_groups, len(train.problems)))
    ]
    parts = SamplingParts(
        lease=clients.router.lease,
        sampling=training_sampling(sampling),
        judge=clients.judge,
        reward=reward_fn(config.reward, max_tokens=sampling.max_new_tokens),
        read=clients.read,
    )
    groups = await sample_groups(
        [(train.problems[i], train.prompts[i]) for i in positions],
        parts,
        group_size=size,
        request_prefix=f"look-{uuid.uuid4().hex[:8]}",
    )
    first = sum_up(groups, group_size=size, drop_rule=config.rollout.drop_zero_advantage)
    return groups, first


def record(path: Path, first: FirstSamples) -> None:
    """Log the summary, and leave it in the run folder."""
    for line in lines_of(first):
        _LOG.info("first samples: %s", line)
    for warning in warnings_of(first):
        _LOG.warning("first samples: %s", warning)
    write_json(path, dataclasses.asdict(first))


def recorded(path: Path) -> FirstSamples | None:
    """Return what :func:`record` left, None when there is nothing yet."""
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    reasons = tuple((reason, count) for reason, count in fields.pop("reasons"))
    return FirstSamples(**fields, reasons=reasons)


def lines_of(first: FirstSamples) -> Iterator[str]:
    """Yield the summary as lines for people."""
    lost = f", {first.num_lost} lost to their verifier" if first.num_lost else ""
    yield f"{first.num_samples} responses to {first.num_groups} problems{lost}"
    yield (
        f"format {first.well_formed:.0%}, answer understood {first.parsable:.0%}, "
        f"right {first.correct:.0%}, mean reward {first.mean_reward:.3f}"
    )
    yield (
        f"cut off {first.truncated:.0%}, ended by themselves {1 - first.truncated:.0%}, "
        f"{first.mean_tokens:,.0f} tokens on average"
    )
    yield f"groups that teach nothing: {first.num_dropped} of {first.num_groups}"
    for reason, count in first.reasons:
        yield f"{count} times: {reason}"
