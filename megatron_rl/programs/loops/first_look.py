"""First look at what a policy samples: a few groups, summed up before much is spent on more."""

import dataclasses
import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_rl.config import RunConfig
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.programs.builders.inference import InferenceClients, training_sampling
from megatron_rl.programs.builders.judge import reward_fn
from megatron_rl.programs.curriculum.sources import open_curriculum
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
    config: RunConfig,
    clients: InferenceClients,
    sources: Sequence[CurriculumSource],
    *,
    num_groups: int,
) -> tuple[list[Group], FirstSamples]:
    """Sample the first problems of the curriculum as training will, and sum them up.

    Raises:
        VerifierError: no completion has a verdict.
        GeneratorRequestError, GeneratorUnavailableError: no server answers.
    """
    sampling = config.generators.sampling
    curriculum = open_curriculum(config, sources)
    num_problems = sum(source.num_given for source in sources)
    given = (curriculum.assignment(index) for index in range(min(num_groups, num_problems)))
    assignments = [assignment for assignment in given if assignment is not None]
    parts = SamplingParts(
        lease=clients.router.lease,
        sampling=training_sampling(sampling),
        judge=clients.judge,
        reward=reward_fn(config.reward, max_tokens=sampling.max_new_tokens),
        read=clients.read,
    )
    groups = await sample_groups(assignments, parts, request_prefix=f"look-{uuid.uuid4().hex[:8]}")
    num_asked = sum(assignment.group_size for assignment in assignments)
    drop_rule = config.rollout.drop_zero_advantage
    return groups, sum_up(groups, num_asked=num_asked, drop_rule=drop_rule)


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
