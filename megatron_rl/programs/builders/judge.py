"""Judge of a run, built from its configuration; also checks of a problem file."""

import asyncio
import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_rl.algorithm.rewards import compute_reward
from megatron_rl.code_judging import CodeLimits, prepare_code_judging
from megatron_rl.config import JudgeConfig, RewardConfig
from megatron_rl.errors import ConfigError, VerifierError
from megatron_rl.judge.http_client import RemoteJudge
from megatron_rl.judge.judge import Backend, Judge
from megatron_rl.judge.worker_pool import PoolSettings, WorkerPool
from megatron_rl.programs.builders.answer_batches import batched_answers, read_faults
from megatron_rl.programs.builders.worker_verifiers import KINDS
from megatron_rl.protocols import RewardFn
from megatron_rl.report.progress_bar import progress_bar
from megatron_rl.types import Problem, Response, Reward, Verdict
from megatron_rl.verifiers.answer_formats import find_setting_fault
from megatron_rl.verifiers.code import find_code_fault

KEY_VARIABLE = "MEGATRON_RL_JUDGE_KEY"
"""Environment variable with the API key of judges on other machines."""

_VERIFIER = "megatron_rl.programs.builders.worker_verifiers:make_verifier"
_CHECKER = "megatron_rl.programs.builders.worker_verifiers:make_problem_checker"
# Where and how solutions run is each machine's own affair.
_LOCAL_CODE_SETTINGS = ("sandbox", "cache_dir", "cache_mb")
# No verifier has to be asked about a plain number, and most answers are one.
_PLAIN_NUMBER = re.compile(r"-?\d{1,100}(?:\.\d{1,100})?")
_MATH_KEY = "math "
_CHECKS_AT_A_TIME = 32  # by one worker, in one message
_NO_RESPONSE = Response(thoughts=None, answer="", fault=None)
# Counts up when the question to a judge changes, so that judges of another release are refused.
_QUESTION_FORMAT = 2


def open_judge(judge: JudgeConfig, reward: RewardConfig) -> Judge:
    """Return the judge that these settings describe, to be used as a context manager.

    Raises:
        ConfigError: there is neither a worker nor a remote judge, or the key cannot be read.
    """
    settings = verifier_settings(judge, reward)
    backends: list[Backend] = []
    if judge.num_workers:
        backends.append(WorkerPool(pool_settings(judge, settings)))
    key = read_key(judge.key_file) if judge.urls else None
    fingerprint = grading_fingerprint(settings)
    backends += [RemoteJudge(url, key=key, grading_fingerprint=fingerprint) for url in judge.urls]
    if not backends:
        raise ConfigError("judge.num_workers (0) must be >= 1, or judge.urls must name judges")
    return Judge(backends, max_retries=judge.max_retries, wait_s=judge.remote_wait_s)


def verifier_settings(judge: JudgeConfig, reward: RewardConfig) -> dict[str, Any]:
    """Return what verifiers are made from, see ``megatron_rl.verifiers``."""
    for kind, name in judge.verifiers.items():
        if kind in KINDS:
            raise ConfigError(
                f"judge.verifiers.{kind} ({name}) must have a name of its own: the package judges "
                f'kind "{kind}" itself'
            )
    return {
        "language": reward.language > 0,
        # A fraction takes running on after the first failure.
        "code": {
            **judge.code.model_dump(mode="json"),
            "run_all": judge.code.run_all or reward.proportional_code,
        },
        "own": {kind: _with_absolute_path(name) for kind, name in judge.verifiers.items()},
    }


def grading_fingerprint(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must be the same on all machines for verdicts to be the same, plain JSON."""
    code = settings["code"].items()
    return {
        "question_format": _QUESTION_FORMAT,
        "language": settings["language"],
        "code": {name: value for name, value in code if name not in _LOCAL_CODE_SETTINGS},
        "own": sorted(settings["own"]),
    }


def pool_settings(judge: JudgeConfig, settings: Mapping[str, Any]) -> PoolSettings:
    """Return the settings of this machine's pool."""
    return PoolSettings(
        verifier=_VERIFIER,
        settings=settings,
        num_workers=judge.num_workers,
        deadline_s=judge.deadline_s,
        slow_deadlines_s={"code": CodeLimits(**settings["code"]).longest_verdict_s},
        quick_s=judge.quick_s,
        memory_mb=judge.memory_mb,
        recycle_after=judge.recycle_after,
    )


def with_workers(judge: JudgeConfig, num: int | None, *, is_given: bool) -> JudgeConfig:
    """Return the settings with ``num`` workers; else, unless a file is given, one per core."""
    if num is None:
        if is_given:
            return judge
        num = len(os.sched_getaffinity(0))
    return judge.model_copy(update={"num_workers": num})


def kinds_of(judge: JudgeConfig) -> list[str]:
    """Return the kinds of problem that can be judged."""
    return [*KINDS, *judge.verifiers]


def read_key(path: Path | None) -> str | None:
    """Return the API key in ``path``, or in the environment; None if there is none."""
    if path is None:
        return os.environ[KEY_VARIABLE] if os.environ.get(KEY_VARIABLE) else None
    try:
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"judge.key_file ({path}) cannot be read: {error}") from error
    if not key:
        raise ConfigError(f"judge.key_file ({path}) must hold a key; it is empty")
    return key


def find_problem_faults(
    problems: Sequence[Problem], *, judge: JudgeConfig, reward: RewardConfig
) -> list[str | None]:
    """Say of each problem why no response to it could be judged right, None where one could.

    Raises:
        VerifierError: a verifier cannot work here; says which and why.
    """
    faults = find_faults(problems, judge=judge, reward=reward)
    return [
        None if fault is None else unverifiable(problem, fault)
        for problem, fault in zip(problems, faults, strict=True)
    ]


def unverifiable(problem: Problem, fault: str) -> str:
    """Return what is wrong with a problem, which it names."""
    return f'problem "{problem.id}" cannot be verified: {fault}'


def glance_at(problem: Problem) -> tuple[str | None, str | None]:
    """Return the fault that is seen at once, and a key under which it has to be examined.

    Problems of one key have the same outcome of :func:`find_faults`; without a key there is none.
    """
    if problem.kind == "code":
        fault = find_code_fault(problem)
        if fault is not None:
            return unverifiable(problem, fault), None
        return None, f"code {problem.extra['language']}"
    if problem.kind != "math":
        return None, f"own {problem.kind}"
    fault = find_setting_fault(problem)
    if fault is not None:
        return unverifiable(problem, fault), None
    return None, f"{_MATH_KEY}{problem.answer}" if _is_doubtful(problem) else None


def problem_of_key(key: str, read: Callable[[], Problem]) -> Problem:
    """Return a problem that stands for all of a key; ``read`` returns one of them."""
    # A math answer is all that is looked at, and reading a row takes longer.
    if key.startswith(_MATH_KEY):
        return Problem(id=key, text="", answer=key.removeprefix(_MATH_KEY))
    return read()


def find_faults(
    problems: Sequence[Problem], *, judge: JudgeConfig, reward: RewardConfig
) -> list[str | None]:
    """Return the fault of each problem, without its name; see :func:`find_problem_faults`.

    A math answer is examined in a process that is ended after ``judge.deadline_s``, which is a
    fault, too. Whether this machine can run solutions is tried out if there are code problems.

    Raises:
        VerifierError: a verifier cannot work here; says which and why.
    """
    settings = verifier_settings(judge, reward)
    code = {i: problem for i, problem in enumerate(problems) if problem.kind == "code"}
    faults: list[str | None] = [
        find_setting_fault(problem) if problem.kind == "math" else None for problem in problems
    ]
    for i, problem in code.items():
        faults[i] = find_code_fault(problem)
    if code and judge.num_workers and not any(faults):
        needs_cpp = any(problem.extra["language"] == "cpp" for problem in code.values())
        prepare_code_judging(CodeLimits(**settings["code"]), needs_cpp=needs_cpp)
    doubtful = [i for i, p in enumerate(problems) if faults[i] is None and _is_doubtful(p)]
    # One problem of each kind of one's own shows whether its verifier can be imported.
    first_of_own = {
        p.kind: i for i, p in reversed(list(enumerate(problems))) if p.kind not in KINDS
    }
    asked = [*doubtful, *first_of_own.values()]
    if asked:
        found = asyncio.run(_find_faults([problems[i] for i in asked], judge, settings))
        for i, fault in zip(asked, found, strict=True):
            faults[i] = fault
    return faults


def reward_fn(reward: RewardConfig, *, max_tokens: int) -> RewardFn:
    """Return what pays for completions of which none exceeds ``max_tokens``."""
    cache = reward.length_cache

    def reward_of(verdict: Verdict, *, num_tokens: int, is_truncated: bool) -> Reward:
        return compute_reward(
            verdict,
            num_tokens=num_tokens,
            is_truncated=is_truncated,
            max_tokens=max_tokens,
            length_cache=max(1, max_tokens // 5) if cache is None else cache,
            format_reward=reward.format,
            correctness_reward=reward.correctness,
            language_reward=reward.language,
            length_penalty=reward.length_penalty,
            is_proportional=reward.proportional_code,
            truncated=reward.truncated,
        )

    return reward_of


def _is_doubtful(problem: Problem) -> bool:
    return problem.kind == "math" and _PLAIN_NUMBER.fullmatch(problem.answer) is None


async def _find_faults(
    problems: Sequence[Problem], judge: JudgeConfig, settings: Mapping[str, Any]
) -> list[str | None]:
    batches = batched_answers(problems)
    num_workers = min(len(os.sched_getaffinity(0)), 1 + len(problems) // _CHECKS_AT_A_TIME)
    local = judge.model_copy(update={"num_workers": num_workers})
    pool = dataclasses.replace(pool_settings(local, settings), verifier=_CHECKER)
    slots = asyncio.Semaphore(2 * num_workers)
    faults: list[str | None] = [None] * len(problems)
    with progress_bar("checking problems", len(problems)) as progress:
        async with Judge([WorkerPool(pool)], max_retries=0, wait_s=0.0) as checker:

            async def find(places: Sequence[int], asked: Problem) -> None:
                async with slots:
                    try:
                        found = read_faults(await checker(asked, _NO_RESPONSE), len(places))
                    except VerifierError as error:
                        found = [str(error)]
                    else:
                        progress.advance(progress.task_ids[0], len(places))
                if len(found) == len(places):
                    for place, fault in zip(places, found, strict=True):
                        faults[place] = fault
                else:  # it crashed or took too long: which one was it?
                    await asyncio.gather(*(find([place], problems[place]) for place in places))

            await asyncio.gather(*(find(*batch) for batch in batches))
    return faults


def _with_absolute_path(name: str) -> str:
    """Resolve ``path/to/file.py:function`` against the working folder; leave modules alone."""
    where, _, function = name.rpartition(":")
    return f"{Path(where).absolute()}:{function}" if where.endswith(".py") else name
