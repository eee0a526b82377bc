"""Inference clients of a run: router, judge and reader of completions, opened together."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_rl.config import HeldOutSet, RunConfig, SamplingConfig, unnamed_set
from megatron_rl.evaluate import EvaluationSettings, ScoredSample, score_problems
from megatron_rl.generation.router import Admit, Router
from megatron_rl.judge.judge import Judge
from megatron_rl.programs.builders.judge import open_judge
from megatron_rl.programs.builders.prompts import PromptSet
from megatron_rl.programs.builders.thinking import open_thinking
from megatron_rl.protocols import ReadFn
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Sampling

_LOG = logging.getLogger(__name__)

POLL_S = 0.1
"""Seconds between two reads of what other programs write."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceClients:
    """Open resources of a program that generates and judges."""

    router: Router
    judge: Judge
    read: ReadFn
    """(Prompt, completion) token ids to text and response."""


@contextlib.asynccontextmanager
async def open_inference(
    config: RunConfig, tokenizer: Any, *, admit: Admit
) -> AsyncIterator[InferenceClients]:
    """Open the router of the run folder and the judge; both are closed on the way out."""
    generators = config.generators
    thinking = open_thinking(config, tokenizer)
    _LOG.info("%s", thinking)
    router = Router(
        RunDir(config.run_dir),
        admit=admit,
        max_attempts=generators.max_attempts,
        backoff_s=generators.backoff_s,
        request_timeout_s=generators.request_timeout_s,
        # As long as a server that died may take to come back.
        wait_timeout_s=generators.start_timeout_s,
        poll_s=POLL_S,
    )
    judge = open_judge(config.judge, config.reward)
    async with router, judge:
        yield InferenceClients(router=router, judge=judge, read=thinking.reader)


def training_sampling(sampling: SamplingConfig) -> Sampling:
    """Return how completions are sampled that are trained on."""
    params = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": sampling.max_new_tokens,
    }
    if sampling.is_truncated:
        params |= {"top_k": sampling.most_choices, "min_p": sampling.min_p}
    return Sampling(params=params, returns_support=sampling.is_truncated)


class Sampler:
    """Settings of all evaluations of one program, which share what may be in flight."""

    def __init__(self, config: RunConfig, clients: InferenceClients) -> None:
        """Take the run's limit of completions in flight."""
        self._clients = clients
        self._slots = asyncio.Semaphore(config.rollout.n_async)
        self._unjudged = asyncio.Semaphore(config.rollout.n_async)

    def settings(self, held_out: HeldOutSet) -> EvaluationSettings:
        """Return the settings of one evaluation of a set."""
        return EvaluationSettings(
            lease=self._clients.router.lease,
            sampling=Sampling(params=held_out.sampling_params),
            judge=self._clients.judge,
            read=self._clients.read,
            num_samples=held_out.num_samples,
            slots=self._slots,
            unjudged=self._unjudged,
            request_prefix=f"eval-{uuid.uuid4().hex[:8]}",
        )


def score_served_policy(
    config: RunConfig, clients: InferenceClients, prompts: PromptSet, *, num_samples: int
) -> AsyncIterator[tuple[int, list[ScoredSample]]]:
    """Score whatever the servers serve now, problem by problem, as [evaluation] says."""
    as_set = unnamed_set(config, Path())
    settings = Sampler(config, clients).settings(replace(as_set, num_samples=num_samples))
    return score_problems(prompts.problems, prompts.prompts, settings)
