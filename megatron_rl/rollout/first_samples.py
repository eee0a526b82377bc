"""First samples of a policy, summed up: whether a run can learn from what it will sample.

A template, a think format or a length limit that is wrong shows in a few groups, long before it
shows in a curve.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_rl.algorithm.filtering import is_zero_advantage
from megatron_rl.errors import VerifierError
from megatron_rl.protocols import GenerateFn, ReadFn, RewardFn
from megatron_rl.types import (
    Assignment,
    Group,
    Problem,
    Response,
    Sample,
    Sampling,
    Verdict,
)

_LOG = logging.getLogger(__name__)

_SHOWN_REASONS = 3
_MOSTLY = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParts:
    """What samples and judges a group, as the collector does."""

    lease: Callable[[], Awaitable[GenerateFn]]
    sampling: Sampling
    judge: Callable[[Problem, Response], Awaitable[Verdict]]
    reward: RewardFn
    read: ReadFn
    """Called in a thread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstSamples:
    """Shares of the first completions, and what they have in common."""

    num_groups: int
    num_samples: int
    """Completions with a verdict."""
    num_lost: int
    """Completions without one: their verifier failed."""
    well_formed: float
    truncated: float
    """Share that was cut off at the maximum length; the others stopped by themselves."""
    parsable: float
    """Share whose answer was found and understood."""
    correct: float
    mean_tokens: float
    mean_reward: float
    num_dropped: int
    """Groups that teach nothing."""
    reasons: tuple[tuple[str, int], ...]
    """Commonest reasons of verdicts, with how often each was given."""


async def sample_groups(
    assignments: Sequence[Assignment], parts: SamplingParts, *, request_prefix: str
) -> list[Group]:
    """Sample and judge a group for each assignment, all at once.

    A completion whose verifier fails is logged and left out.

    Args:
        assignments: what the groups work on.
        parts: as the collector has them.
        request_prefix: start of every request id.

    Raises:
        GeneratorRequestError, GeneratorUnavailableError: no server answers.
    """

    async def sample(
        generate: GenerateFn, problem: Problem, prompt: tuple[int, ...], request_id: str
    ) -> Sample | None:
        completion = await generate(prompt, parts.sampling, request_id=request_id)
        text, response = await asyncio.to_thread(parts.read, prompt, completion.token_ids)
        try:
            verdict = await parts.judge(problem, response)
        except VerifierError as error:
            _LOG.error('a sample of problem "%s" has no verdict: %s', problem.id, error)
            return None
        reward = parts.reward(
            verdict, num_tokens=len(completion.token_ids), is_truncated=completion.is_truncated
        )
        return Sample(completion=completion, text=text, verdict=verdict, reward=reward)

    async def group(index: int, given: Assignment) -> Group:
        generate = await parts.lease()
        problem, prompt = given.problem, given.prompt_ids
        calls = [
            sample(generate, problem, prompt, f"{request_prefix}-{index}-{position}")
            for position in range(given.group_size)
        ]
        samples = await asyncio.gather(*calls)
        judged = tuple(sample for sample in samples if sample is not None)
        return Group(
            index=index, problem=problem, prompt_ids=prompt, samples=judged, source=given.source
        )

    return list(await asyncio.gather(*(group(i, given) for i, given in enumerate(assignments))))


def sum_up(
    groups: Sequence[Group],
    *,
    num_asked: int,
    drop_rule: Literal["reward", "correctness", "never"],
) -> FirstSamples:
    """Return what the groups have in common; VerifierError when no completion has a verdict.

    Args:
        groups: with the completions that have one.
        num_asked: completions of the groups, with those that have none.
        drop_rule: which groups would be dropped.
    """
    samples = [sample for group in groups for sample in group.samples]
    if not samples:
        raise VerifierError("none of the first completions has a verdict; see the errors above")
    verdicts = [sample.verdict for sample in samples]
    reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason)
    return FirstSamples(
        num_groups=len(groups),
        num_samples=len(samples),
        num_lost=num_asked - len(samples),
        well_formed=_share(verdict.format_ok for verdict in verdicts),
        truncated=_share(sample.completion.is_truncated for sample in samples),
        parsable=_share(verdict.is_parsable for verdict in verdicts),
        correct=_share(verdict.correct for verdict in verdicts),
        mean_tokens=_share(len(sample.completion.token_ids) for sample in samples),
        mean_reward=_share(sample.reward.total for sample in samples),
        num_dropped=sum(_is_dropped(group, drop_rule) for group in groups),
        reasons=tuple(reasons.most_common(_SHOWN_REASONS)),
    )


def warnings_of(first: FirstSamples) -> Iterator[str]:
    """Yield what would keep a run from learning, each with its remedy."""
    if first.well_formed == 0:
        yield (
            "no response has the format, so that every one earns 0: look at some (megatron-rl "
            "check), name the marks in force in reward.thinking, ask for them "
            "(data.system_prompt), or teach them in a cold start ([sft])"
        )
    if first.truncated > _MOSTLY:
        yield (
            f"{first.truncated:.0%} of the responses are cut off: raise "
            "generators.sampling.max_new_tokens, or see whether the policy ever ends its turn"
        )
    if first.well_formed > 0 and first.parsable == 0:
        yield "no response has an answer that is understood; see the reasons for it"
    if first.num_dropped == first.num_groups:
        yield (
            "every group would be dropped, since its completions earn the same: take easier "
            "problems if all are wrong, harder ones if all are right"
        )


def _is_dropped(group: Group, rule: Literal["reward", "correctness", "never"]) -> bool:
    return not group.samples or is_zero_advantage(
        [sample.reward.total for sample in group.samples],
        [sample.verdict.correct for sample in group.samples],
        [sample.reward.is_masked for sample in group.samples],
        rule=rule,
    )


def _share(values: "Iterator[float]") -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)
