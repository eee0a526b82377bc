"""Scoring of many problems: completions in flight together, each judged as it finishes."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_rl.errors import GeneratorTimeoutError, VerifierError
from megatron_rl.protocols import GenerateFn, ReadFn
from megatron_rl.types import Completion, Problem, Response, Sampling, Verdict

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredSample:
    """Verdict and length of one judged completion."""

    verdict: Verdict
    length: int
    """Tokens of the completion."""
    is_truncated: bool
    """Whether it was cut off at its maximum length."""
    versions: Counter[int]
    """Tokens that each policy version sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSettings:
    """Generator, sampling parameters, judge and number of samples of an evaluation."""

    lease: Callable[[], Awaitable[GenerateFn]]
    """Returns the ``GenerateFn`` of one problem; may wait for a server."""
    sampling: Sampling
    """Passed to the ``GenerateFn``."""
    judge: Callable[[Problem, Response], Awaitable[Verdict]]
    """Returns a verdict, or raises VerifierError when it has none."""
    read: ReadFn
    """(Prompt, completion) token ids to text and response; called in a thread."""
    num_samples: int
    """Completions per problem."""
    slots: asyncio.Semaphore
    """Completions in flight, of all evaluations that share it."""
    unjudged: asyncio.Semaphore
    """Completions that wait for a verdict, likewise."""
    request_prefix: str
    """Start of every request id, unique to this evaluation."""


async def score_problems(
    problems: Sequence[Problem], prompts: Sequence[Sequence[int]], settings: EvaluationSettings
) -> AsyncIterator[tuple[int, list[ScoredSample]]]:
    """Yield (position, samples with a verdict) of each problem as it is done, in any order.

    Close the generator (``contextlib.aclosing``) if it may not be read to its end: closing cancels
    the completions in flight.

    Args:
        problems: the problems, started in this order.
        prompts: prompt token ids of each problem.
        settings: sampling, judge and number of samples.
    """
    slots, unjudged = settings.slots, settings.unjudged

    async def generate_one(generate: GenerateFn, position: int, attempt: int) -> Completion | None:
        try:
            request_id = f"{settings.request_prefix}-{position}-{attempt}"
            completion = await generate(prompts[position], settings.sampling, request_id=request_id)
            # A judge that falls behind slows generation down, instead of a queue that grows.
            await unjudged.acquire()
        except GeneratorTimeoutError as error:
            _LOG.error('a sample of problem "%s" is lost: %s', problems[position].id, error)
            return None
        finally:
            slots.release()
        return completion

    async def score(generate: GenerateFn, position: int, attempt: int) -> ScoredSample | None:
        completion = await generate_one(generate, position, attempt)
        if completion is None:
            return None
        try:
            _, response = await asyncio.to_thread(
                settings.read, prompts[position], completion.token_ids
            )
            verdict = await settings.judge(problems[position], response)
        except VerifierError as error:
            _LOG.error('a sample of problem "%s" has no score: %s', problems[position].id, error)
            return None
        finally:
            unjudged.release()
        return ScoredSample(
            verdict=verdict,
            length=len(completion.token_ids),
            is_truncated=completion.is_truncated,
            versions=Counter(completion.policy_versions),
        )

    async with _Tasks() as tasks:

        async def finish(position: int, attempts: Sequence["asyncio.Task[Any]"]) -> None:
            samples = await asyncio.gather(*attempts)
            tasks.results.put_nowait((position, [s for s in samples if s is not None]))

        async def start_all() -> None:
            for position in range(len(problems)):
                generate, attempts = await settings.lease(), []
                for attempt in range(settings.num_samples):
                    await slots.acquire()
                    attempts.append(tasks.start(score(generate, position, attempt)))
                tasks.start(finish(position, attempts))

        tasks.start(start_all())
        for _ in problems:
            yield await tasks.next_result()


class _Tasks:
    """Tasks that end together: ``next_result`` raises the first failure."""

    def __init__(self) -> None:
        self.results: asyncio.Queue[Any] = asyncio.Queue()
        self._running: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> "_Tasks":
        return self

    async def __aexit__(self, *_: object) -> None:
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.ensure_future(coroutine)
        self._running.add(task)
        task.add_done_callback(self._note_end)
        return task

    async def next_result(self) -> Any:
        result = await self.results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def _note_end(self, task: "asyncio.Task[Any]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.results.put_nowait(error)
