"""Samples for the log-prob comparison: made-up prompts, answered through the router."""

import asyncio
import dataclasses
import json
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from megatron_rl.batch import joined_support
from megatron_rl.config import GeneratorsConfig
from megatron_rl.generation.router import Admit, Router
from megatron_rl.programs.builders.inference import training_sampling
from megatron_rl.run_dir import RunDir, write_json
from megatron_rl.sequences import SamplingSupport, Sequences
from megatron_rl.types import Completion

_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptToSample:
    """A prompt and how many tokens are to be sampled after it."""

    prompt_ids: tuple[int, ...]
    num_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """A prompt with what was sampled after it."""

    prompt_ids: tuple[int, ...]
    completion: Completion


def make_prompts(
    count: int, *, vocab_size: int, context_length: int, seed: int
) -> list[PromptToSample]:
    """Make up ``count`` prompts of mixed lengths, each prompt asked twice.

    Twice, because the second asker finds the prompt in the server's prefix cache.
    """
    rng = np.random.default_rng(seed)
    lengths = np.repeat(rng.integers(2, context_length // 4, -(-count // 2)), 2)[:count]
    prompts = [tuple(rng.integers(0, vocab_size, n).tolist()) for n in lengths[::2]]
    # The server keeps the last position of its context for itself.
    budgets = [context_length - int(n) - 1 for n in lengths]
    return [
        PromptToSample(prompt_ids=prompts[i // 2], num_tokens=int(rng.integers(1, budget + 1)))
        for i, budget in enumerate(budgets)
    ]


class Asker:
    """Asks the servers of a run folder at one temperature."""

    def __init__(
        self, run_dir: RunDir, generators: GeneratorsConfig, *, admit: Admit = "acknowledged"
    ) -> None:
        self._run_dir = run_dir
        self._generators = generators
        self._admit = admit

    def ask(self, prompts: Sequence[PromptToSample]) -> list[Answered]:
        """Sample one completion of every prompt, all at once."""

        async def run() -> list[Answered]:
            async with self._router() as router:
                return list(await asyncio.gather(*(self._answer(router, q) for q in prompts)))

        return asyncio.run(run())

    def ask_until(
        self, stop: threading.Event, under_way: threading.Event, prompts: Sequence[PromptToSample]
    ) -> list[Answered]:
        """Ask every prompt again and again until ``stop``; finish what is in flight then.

        ``under_way`` is set when a quarter of the answers is there: the others are half way.
        """

        async def repeat(router: Router, prompt: PromptToSample, answers: list[Answered]) -> None:
            while not stop.is_set():
                answers.append(await self._answer(router, prompt))
                if 4 * len(answers) >= len(prompts):
                    under_way.set()

        async def run() -> list[Answered]:
            answers: list[Answered] = []
            async with self._router() as router:
                await asyncio.gather(*(repeat(router, q, answers) for q in prompts))
            return answers

        return asyncio.run(run())

    async def _answer(self, router: Router, prompt: PromptToSample) -> Answered:
        generate = await router.lease()
        asked = training_sampling(self._generators.sampling)
        length = {"max_new_tokens": prompt.num_tokens, "ignore_eos": True}
        sampling = dataclasses.replace(asked, params={**asked.params, **length})
        completion = await generate(prompt.prompt_ids, sampling, request_id="parity")
        return Answered(prompt_ids=prompt.prompt_ids, completion=completion)

    def _router(self) -> Router:
        generators = self._generators
        return Router(
            self._run_dir,
            admit=self._admit,
            max_attempts=generators.max_attempts,
            backoff_s=generators.backoff_s,
            request_timeout_s=generators.request_timeout_s,
            wait_timeout_s=generators.start_timeout_s,
            poll_s=_POLL_S,
        )


class InFlight:
    """Sequences that run in the background, without a gap, while the caller publishes weights."""

    def __init__(self, asker: Asker, prompts: Sequence[PromptToSample]) -> None:
        self._stop, self._under_way = threading.Event(), threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="in-flight")
        self._answers = self._pool.submit(asker.ask_until, self._stop, self._under_way, prompts)

    def __enter__(self) -> Self:
        while not self._under_way.wait(_POLL_S):
            if self._answers.done():
                self._answers.result()  # raises what ended it
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown()

    def answers(self) -> list[Answered]:
        """Wait for all of them."""
        return self._answers.result()


def save_answers(path: Path, answers: Sequence[Answered]) -> None:
    """Write answers for the other ranks to read."""
    records = []
    for answer in answers:
        completion = answer.completion
        records.append(
            {
                "prompt_ids": answer.prompt_ids,
                "token_ids": completion.token_ids,
                "logprobs": completion.logprobs,
                "policy_versions": completion.policy_versions,
                "finish_reason": completion.finish_reason,
                "support": None if completion.support is None else completion.support.rows(),
            }
        )
    write_json(path, records)


def load_answers(path: Path) -> list[Answered]:
    """Read what :func:`save_answers` wrote."""
    return [
        Answered(
            prompt_ids=tuple(record["prompt_ids"]),
            completion=Completion(
                token_ids=tuple(record["token_ids"]),
                logprobs=tuple(record["logprobs"]),
                policy_versions=tuple(record["policy_versions"]),
                finish_reason=record["finish_reason"],
                support=None
                if record["support"] is None
                else SamplingSupport.of_rows(record["support"]),
            ),
        )
        for record in json.loads(path.read_text())
    ]


def as_sequences(answers: Sequence[Answered]) -> Sequences:
    """Lay prompts and completions end to end; every completion token weighs the same."""
    prompts = [len(a.prompt_ids) for a in answers]
    lengths = [n + len(a.completion.token_ids) for n, a in zip(prompts, answers, strict=True)]
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    mask_T = np.concatenate([np.arange(n) >= p for p, n in zip(prompts, lengths, strict=True)])
    return Sequences(
        token_ids_T=np.concatenate([[*a.prompt_ids, *a.completion.token_ids] for a in answers]),
        offsets=offsets,
        loss_mask_T=mask_T,
        behavior_logprobs_T=np.concatenate(
            [[*([0.0] * p), *a.completion.logprobs] for p, a in zip(prompts, answers, strict=True)]
        ).astype(np.float32),
        advantages_N=np.zeros(len(answers), np.float32),
        weights_N=np.full(len(answers), 1 / mask_T.sum(), np.float32),
        support=joined_support(prompts, [a.completion.support for a in answers]),
    )


def prompts_as_sequences(prompts: Sequence[PromptToSample]) -> Sequences:
    """Return the prompts alone, each token but the first to be learnt from those before it."""
    answers = []
    for prompt in prompts:
        first, *rest = prompt.prompt_ids
        completion = Completion(
            token_ids=tuple(rest),
            logprobs=(0.0,) * len(rest),
            policy_versions=(0,) * len(rest),
            finish_reason="length",
        )
        answers.append(Answered(prompt_ids=(first,), completion=completion))
    return as_sequences(answers)


def differences(
    answers: Sequence[Answered], logprobs: Sequence[Tensor], *, version: int
) -> NDArray[np.float64]:
    """Return |reported - learner's| log-probability of every token sampled by ``version``.

    Args:
        answers: N answers.
        logprobs: per answer, what ``Learner.logprobs`` returns: all tokens but the first.
    """
    parts = [np.empty(0)]
    for answer, logprob in zip(answers, logprobs, strict=True):
        completion = answer.completion
        ours = logprob[len(answer.prompt_ids) - 1 :].double().numpy()
        is_asked_for = np.array(completion.policy_versions) == version
        parts.append(np.abs(ours - np.array(completion.logprobs))[is_asked_for])
    return np.concatenate(parts)
