"""``megatron-rl verify``: grade a file of responses exactly as training would.

One line out per line in, in the order of the input, and a summary per kind on stderr. The output
appears whole or not at all.
"""

import argparse
import asyncio
import collections
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from megatron_rl.config import JudgingConfig
from megatron_rl.data.problems import raise_faults
from megatron_rl.data.responses import ResponseLine, load_responses
from megatron_rl.errors import ConfigError, VerifierError
from megatron_rl.judge.judge import Judge
from megatron_rl.programs.builders.judge import (
    find_problem_faults,
    kinds_of,
    open_judge,
    reward_fn,
    with_workers,
)
from megatron_rl.programs.builders.thinking import format_without_model
from megatron_rl.programs.processes.asyncio_signals import run_until_signal
from megatron_rl.protocols import RewardFn
from megatron_rl.report.progress_bar import progress_bar
from megatron_rl.thinking import ThinkFormat, read_text
from megatron_rl.types import Verdict

_LINES_AT_A_TIME = 16  # per worker: enough to keep it busy
_LINES_AHEAD = 10_000
_COLUMNS = ("correct", "wrong", "unparsable", "malformed", "verifier error")


def main(config: JudgingConfig, options: argparse.Namespace) -> int:
    """Grade and return the exit code.

    Args:
        config: judge and rewards.
        options: ``file``, ``out``, ``workers`` and ``config``, see the command line.

    Raises:
        DataError: a line of the file cannot be graded; raised before anything is.
        ConfigError: the output cannot be written.
    """
    judge = with_workers(config.judge, options.workers, is_given=options.config is not None)
    responses = load_responses(options.file, kinds=kinds_of(judge))
    problems = [response.problem for response in responses]
    faults = find_problem_faults(problems, judge=judge, reward=config.reward)
    raise_faults([response.where for response in responses], faults)
    partial = options.out.with_name(f".{options.out.name}.{os.getpid()}.partial")
    try:
        out = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {options.out}: cannot be written: {error.strerror}") from error
    try:
        with out:
            code = run_until_signal(
                _grade(
                    responses,
                    open_judge(judge, config.reward),
                    # No length is known here, so nothing is deducted for it.
                    reward_fn(config.reward, max_tokens=1),
                    format_without_model(config.reward),
                    num_at_a_time=_LINES_AT_A_TIME * (judge.num_workers + 16 * len(judge.urls)),
                    out=out,
                )
            )
        if code == 0:
            partial.replace(options.out)
        return code
    finally:
        partial.unlink(missing_ok=True)


async def _grade(
    responses: Sequence[ResponseLine],
    judge: Judge,
    reward_of: RewardFn,
    think_format: ThinkFormat,
    *,
    num_at_a_time: int,
    out: TextIO,
) -> None:
    """Write one line per response."""
    counts: dict[str, dict[str, float]] = {}
    with progress_bar("grading", len(responses)) as progress:
        async with judge:
            started_s = time.monotonic()
            records = _in_order(
                responses, judge, reward_of, think_format, num_at_a_time=num_at_a_time
            )
            async for response, record, outcome in records:
                out.write(json.dumps(record) + "\n")
                count = counts.setdefault(
                    response.problem.kind, dict.fromkeys([*_COLUMNS, "seconds"], 0.0)
                )
                count[outcome] += 1
                count["seconds"] += record["seconds"]
                progress.advance(progress.task_ids[0])
    _show(counts, wall_s=time.monotonic() - started_s, num_lines=len(responses))


async def _in_order(
    responses: Sequence[ResponseLine],
    judge: Judge,
    reward_of: RewardFn,
    think_format: ThinkFormat,
    *,
    num_at_a_time: int,
) -> AsyncIterator[tuple[ResponseLine, dict[str, Any], str]]:
    """Grade many at a time and yield (response, line, column of the summary) in their order."""
    tasks: collections.deque[asyncio.Task[tuple[dict[str, Any], str]]] = collections.deque()
    slots = asyncio.Semaphore(num_at_a_time)

    async def grade(response: ResponseLine) -> tuple[dict[str, Any], str]:
        async with slots:
            return await _grade_one(response, judge, reward_of, think_format)

    try:
        num_started = 0
        for response in responses:
            # A line that takes its whole deadline must not hold up those behind it.
            while num_started < len(responses) and len(tasks) < _LINES_AHEAD:
                tasks.append(asyncio.ensure_future(grade(responses[num_started])))
                num_started += 1
            record, outcome = await tasks[0]
            tasks.popleft()
            yield response, record, outcome
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _grade_one(
    response: ResponseLine,
    judge: Judge,
    reward_of: RewardFn,
    think_format: ThinkFormat,
) -> tuple[dict[str, Any], str]:
    asked_s = time.monotonic()
    try:
        read = read_text(response.text, think_format, response.prompt_thought)
        graded = await judge.grade(response.problem, read)
    except VerifierError as error:
        nothing = dict.fromkeys(["correct", "answer", "format_ok", "language_ok"])
        spent = {"reason": str(error), "seconds": round(time.monotonic() - asked_s, 6)}
        record = {"id": response.id, **nothing, "parts": {}, "reward": None, **spent}
        return record, "verifier error"
    verdict = graded.verdict
    reward = reward_of(verdict, num_tokens=0, is_truncated=response.is_truncated)
    record = {
        "id": response.id,
        "correct": verdict.correct,
        "answer": verdict.answer,
        "format_ok": verdict.format_ok,
        "language_ok": verdict.language_ok,
        "parts": dict(reward.parts),
        "reward": round(reward.total, 9),
        "reason": verdict.reason,
        "seconds": round(graded.seconds, 6),
    }
    return record, _outcome(verdict)


def _outcome(verdict: Verdict) -> str:
    if verdict.correct:
        return "correct"
    if not verdict.format_ok:
        return "malformed"
    return "wrong" if verdict.is_parsable else "unparsable"


def _show(counts: dict[str, dict[str, float]], *, wall_s: float, num_lines: int) -> None:
    """Print the summary; ``seconds`` are execution, and ``per s`` is what one worker does."""
    table = Table(
        title=f"{num_lines} lines in {wall_s:.1f} s, {num_lines / wall_s:.0f} a second",
        box=None,
        pad_edge=False,
        title_justify="left",
    )
    table.add_column("kind")
    for column in (*_COLUMNS, "seconds", "per s"):
        table.add_column(column, justify="right")
    for kind, count in sorted(counts.items()):
        num = sum(count[column] for column in _COLUMNS)
        rate = num / count["seconds"] if count["seconds"] else 0.0
        cells = [f"{count[column]:.0f}" for column in _COLUMNS]
        table.add_row(kind, *cells, f"{count['seconds']:.2f}", f"{rate:.0f}")
    Console(stderr=True).print(table)
