"""Sample every problem of a file, and keep those that are worth training on.

Grades are appended as they come, so that a run that was stopped goes on where it was, and so that
other thresholds cost no further sampling.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from megatron_rl.algorithm.difficulty import Decision, Grade, decide, grade_of
from megatron_rl.config import DifficultyConfig, RunConfig, unnamed_set
from megatron_rl.data.jsonl import read_records
from megatron_rl.errors import ConfigError, DataError
from megatron_rl.evaluate import ScoredSample
from megatron_rl.programs.builders.inference import score_served_policy
from megatron_rl.programs.builders.prompts import (
    PromptSet,
    held_out_source,
    load_run_prompts,
    load_tokenizer,
)
from megatron_rl.programs.builders.served_policy import OpenPolicy, ServedPolicy
from megatron_rl.programs.processes.asyncio_signals import run_until_signal
from megatron_rl.report.progress_bar import progress_bar
from megatron_rl.run_dir import append_jsonl, drop_unfinished_line, publish_atomically

_BAR_CHARS = 40
_BINS = 8


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Grade what is not graded yet, write what is kept, and print what was dropped why.

    Args:
        config: the run.
        options: ``problems``, ``out``, ``reserve``, ``grades`` and ``model``, see
            tools/filter_difficulty.py.

    Raises:
        DataError, ModelError: the problems, the grades or the model cannot be used.
        ConfigError: thresholds that keep nothing, or a file that cannot be written.
        ProgramError: the server did not start.
    """
    wanted = config.difficulty
    policy = ServedPolicy(config, options.model)
    tokenizer = load_tokenizer(policy.config.model.path)
    # The columns of training data, which it is to become.
    given = unnamed_set(policy.config, options.problems, path_key="--problems")
    source = held_out_source(dataclasses.replace(given, columns=policy.config.data.columns))
    prompts = load_run_prompts(policy.config, source, tokenizer)
    grades = read_grades(options.grades, num_samples=wanted.num_samples)
    missing = _without(prompts, grades.keys())
    if missing.problems:
        with policy.served() as served:
            code = run_until_signal(_grade(served, missing, tokenizer, wanted, options.grades))
        if code != 0:
            return code
        grades = read_grades(options.grades, num_samples=wanted.num_samples)
    decisions = {
        problem.id: decide(
            grades[problem.id],
            min_pass_rate=wanted.min_pass_rate,
            max_pass_rate=wanted.max_pass_rate,
            doubt_share=wanted.doubt_share,
        )
        for problem in prompts.problems
    }
    _write_kept(prompts.lines, options.out, decisions)
    if options.reserve is not None:
        write_too_hard(prompts.lines, options.reserve, decisions)
    for line in summary(decisions, [grades[name] for name in decisions]):
        Console(stderr=True).print(line)
    return 0


def read_grades(path: Path, *, num_samples: int) -> dict[str, Grade]:
    """Return the grades recorded so far by problem; none when there is no file.

    Raises:
        DataError: a line cannot be read, or is of another number of samples.
    """
    if not path.exists():
        return {}
    drop_unfinished_line(path)
    if not path.stat().st_size:
        return {}
    grades = {}
    for where, record in read_records(path):
        try:
            wrong = tuple((str(answer), int(count)) for answer, count in record["wrong_answers"])
            grade = Grade(**(record | {"wrong_answers": wrong}))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{where}: is no grade of a problem: {error!r}") from error
        if grade.num_judged + grade.num_errors != num_samples:
            raise DataError(
                f"{where}: a grade of {grade.num_judged + grade.num_errors} samples, "
                f"difficulty.num_samples is {num_samples}; name another file of grades"
            )
        grades[grade.problem_id] = grade
    return grades


async def _grade(
    served: OpenPolicy,
    prompts: PromptSet,
    tokenizer: Any,
    wanted: DifficultyConfig,
    path: Path,
) -> None:
    """Append the grade of each problem as soon as its last sample is judged."""
    with progress_bar("grading", len(prompts.problems)) as progress:
        async with served.open_inference(tokenizer) as clients:
            scored = score_served_policy(
                served.config, clients, prompts, num_samples=wanted.num_samples
            )
            async with contextlib.aclosing(scored):
                async for position, samples in scored:
                    grade = _grade_of(prompts.problems[position].id, samples, wanted.num_samples)
                    record = dataclasses.asdict(grade)
                    await asyncio.to_thread(append_jsonl, path, record)
                    progress.advance(progress.task_ids[0])


def _grade_of(problem_id: str, samples: Sequence[ScoredSample], num_samples: int) -> Grade:
    return grade_of(
        problem_id,
        [sample.verdict.answer for sample in samples],
        [sample.verdict.correct for sample in samples],
        num_errors=num_samples - len(samples),
    )


def _without(prompts: PromptSet, graded: Iterable[str]) -> PromptSet:
    known = set(graded)
    return prompts.at([i for i, problem in enumerate(prompts.problems) if problem.id not in known])


def _write_kept(lines: Sequence[str], out: Path, decisions: Mapping[str, Decision]) -> None:
    """Copy the lines of kept problems as they are; both are in the order of the file."""
    kept = _lines_of("kept", lines, decisions)
    if not kept:
        raise ConfigError(
            "difficulty.min_pass_rate and difficulty.max_pass_rate keep none of "
            f"{len(decisions)} problems; widen them, the grades stay"
        )
    _write_lines(kept, out, option="--out")


def write_too_hard(lines: Sequence[str], out: Path, decisions: Mapping[str, Decision]) -> None:
    """Copy the lines of problems that are too hard, if any, for ``data.reserve``."""
    _write_lines(_lines_of("too hard", lines, decisions), out, option="--reserve")


def _lines_of(
    decision: Decision, lines: Sequence[str], decisions: Mapping[str, Decision]
) -> list[str]:
    return [line for line, made in zip(lines, decisions.values(), strict=True) if made == decision]


def _write_lines(lines: Sequence[str], out: Path, *, option: str) -> None:
    try:
        publish_atomically(out, "".join(line + "\n" for line in lines).encode())
    except OSError as error:
        raise ConfigError(f"{option} {out}: cannot be written: {error.strerror}") from error


def summary(decisions: Mapping[str, Decision], grades: Sequence[Grade]) -> Iterator[Table]:
    """Yield what was decided how often, and how pass rates are distributed."""
    counts = collections.Counter(decisions.values())
    table = Table(title=f"{len(decisions)} problems", box=None, title_justify="left")
    table.add_column("decision")
    table.add_column("problems", justify="right")
    for decision in get_args(Decision):
        table.add_row(decision, f"{counts[decision]:,}")
    yield table
    judged = [grade.pass_rate for grade in grades if grade.num_judged]
    if judged:
        yield _histogram(judged)


def _histogram(pass_rates: Sequence[float]) -> Table:
    bins = collections.Counter(
        0 if rate == 0 else _BINS + 1 if rate == 1 else 1 + int(rate * _BINS) for rate in pass_rates
    )
    table = Table(title="pass rate", box=None, title_justify="left")
    table.add_column("from")
    table.add_column("problems", justify="right")
    table.add_column("")
    for index in range(_BINS + 2):
        middle = f"{(index - 1) / _BINS:.1%}"
        label = "never" if index == 0 else "always" if index > _BINS else middle
        bar = "#" * round(_BAR_CHARS * bins[index] / max(bins.values()))
        table.add_row(label, f"{bins[index]:,}", bar)
    return table
