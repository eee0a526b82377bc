"""``megatron-rl rollout``: problems to completions to batches, without ever waiting for a step.

Normally batches follow the learner, up to ``rollout.max_steps_ahead``, and held-out problems are
evaluated before, during and after training. With ``--standalone`` there is no learner: batches are
filled from whatever servers are registered.
"""

import argparse
import asyncio
import functools
import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_rl.algorithm.rewards import compute_reward
from megatron_rl.config import RewardConfig, RolloutConfig, RunConfig
from megatron_rl.data.curriculum import problem_at
from megatron_rl.evaluate import EvaluationResult, evaluate
from megatron_rl.generation.router import Router
from megatron_rl.handoff import FileBatchSink, Position
from megatron_rl.programs.evaluations import Evaluations
from megatron_rl.programs.meter import Meter
from megatron_rl.programs.questions import Questions, load_questions, load_tokenizer
from megatron_rl.programs.signals import run_until_signal
from megatron_rl.rollout.assemble import assemble_batch
from megatron_rl.rollout.collector import Collector, CollectorLimits
from megatron_rl.rollout.judge import Judge
from megatron_rl.rollout.measure import staleness_metrics
from megatron_rl.run_dir import RunDir
from megatron_rl.telemetry import TensorBoardSink
from megatron_rl.types import Problem, Reward, Verdict

_LOG = logging.getLogger(__name__)

POLL_S = 0.1
"""Between two looks at what other programs wrote."""


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Run to the last batch and return the exit code.

    Args:
        config: the run.
        options: ``standalone`` and ``num_batches``, see the command line.

    Raises:
        DataError, ModelError: before anything is started.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    tokenizer = load_tokenizer(config.model.path)
    train = questions_of(config, config.data.train, tokenizer)
    held_out = None
    if config.data.evaluation is not None:
        held_out = questions_of(config, config.data.evaluation, tokenizer)
    decode = functools.partial(tokenizer.decode, skip_special_tokens=True)
    if options.standalone:
        return run_until_signal(_run_standalone(config, options.num_batches, train, decode))
    return run_until_signal(_run(config, options.num_batches, train, held_out, decode))


def questions_of(config: RunConfig, path: Path, tokenizer: Any) -> Questions:
    """Load a problem file under the limits of the run."""
    return load_questions(
        path,
        tokenizer=tokenizer,
        model_path=config.model.path,
        system_prompt=config.data.system_prompt,
        context_length=config.generators.context_length,
        max_new_tokens=config.generators.sampling.max_new_tokens,
    )


def open_router(config: RunConfig, *, is_standalone: bool) -> Router:
    """Return the router of the run."""
    generators = config.generators
    return Router(
        RunDir(config.run_dir),
        admit="registered" if is_standalone else "acknowledged",
        max_attempts=generators.max_attempts,
        backoff_s=generators.backoff_s,
        request_timeout_s=generators.request_timeout_s,
        # As long as a server that died may take to come back.
        wait_timeout_s=generators.start_timeout_s,
        poll_s=POLL_S,
    )


def open_judge(config: RunConfig) -> Judge:
    """Return the judge of the run."""
    judge = config.judge
    return Judge(
        num_workers=judge.num_workers, deadline_s=judge.deadline_s, max_retries=judge.max_retries
    )


async def measure_policy(
    config: RunConfig,
    questions: Questions,
    num_samples: int,
    *,
    router: Router,
    judge: Judge,
    decode: Callable[..., str],
) -> EvaluationResult:
    """Evaluate what the servers serve now."""
    return await evaluate(
        questions.problems,
        questions.prompts,
        lease=router.lease,
        sampling={
            "temperature": config.evaluation.temperature,
            "top_p": config.evaluation.top_p,
            "max_new_tokens": config.generators.sampling.max_new_tokens,
        },
        judge=judge,
        decode=decode,
        num_samples=num_samples,
        concurrency=config.rollout.n_async,
        request_prefix=f"eval-{uuid.uuid4().hex[:8]}",
    )


async def _run_standalone(
    config: RunConfig, num_batches: int | None, train: Questions, decode: Callable[..., str]
) -> None:
    sink = FileBatchSink(RunDir(config.run_dir), max_steps_ahead=None, poll_s=POLL_S)
    async with open_router(config, is_standalone=True) as router, open_judge(config) as judge:
        await _collect(
            config, sink, num_batches, train, router=router, judge=judge, decode=decode, follow=False
        )


async def _run(
    config: RunConfig,
    num_batches: int | None,
    train: Questions,
    held_out: Questions | None,
    decode: Callable[..., str],
) -> None:
    run_dir = RunDir(config.run_dir)
    sink = FileBatchSink(
        run_dir, max_steps_ahead=config.rollout.max_steps_ahead, poll_s=POLL_S
    )
    async with open_router(config, is_standalone=False) as router, open_judge(config) as judge:
        # Loading, or a whole cold start, may come before the first publication.
        await _until(lambda: router.snapshot().num_routable > 0, "a server with current weights")
        collection = functools.partial(
            _collect, config, sink, num_batches, train, router=router, judge=judge, decode=decode
        )
        if held_out is None:
            await collection(follow=True)
            return
        evaluations = Evaluations(
            run_dir.evaluations,
            measure=functools.partial(
                measure_policy,
                config,
                held_out,
                config.evaluation.num_samples,
                router=router,
                judge=judge,
                decode=decode,
            ),
            sinks=[TensorBoardSink(run_dir.tensorboard / "evaluation", purge_step=None)]
            if config.telemetry.tensorboard
            else [],
        )
        await _run_evaluated(
            evaluations,
            lambda: collection(follow=True),
            version_of=lambda: _version(router),
            every=config.evaluation.every,
            num_steps=config.num_steps,
        )
