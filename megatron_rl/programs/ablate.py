"""``megatron-rl ablate``: run variants of one configuration from one start, and compare them.

Every run is resolved and checked before the first starts. They run one after the other, each as
``megatron-rl train`` in a folder of its own; running again skips what is done and resumes what was
stopped. With ``--task`` or ``--start`` this process becomes one of them, as a Slurm array needs it.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from megatron_rl.config import RunConfig
from megatron_rl.errors import ConfigError
from megatron_rl.programs.ablation.definition import read_definition
from megatron_rl.programs.ablation.local_runs import LocalRuns
from megatron_rl.programs.ablation.plan import (
    Plan,
    PlannedRun,
    choose_runs,
    make_plan,
    validate_runs,
)
from megatron_rl.programs.ablation.progress import progress_of, progress_of_start
from megatron_rl.programs.ablation.results import describe_variant, write_results
from megatron_rl.programs.ablation.settings_files import (
    settings_file,
    settings_in_use,
    write_settings,
)
from megatron_rl.programs.checks.validate_run import validate_local_run
from megatron_rl.programs.processes.run_folder import held_alone
from megatron_rl.programs.processes.stopping import interrupted_by_signals
from megatron_rl.run_dir import RunDir


def main(config: None, options: argparse.Namespace) -> int:
    """Do what the options say; return 0, or 1 when a run failed.

    Raises:
        ConfigError, DataError, ModelError: before anything is started.
        Interrupted: Ctrl-C or SIGTERM; running again resumes.
    """
    plan = make_plan(options.definition, read_definition(options.definition), options.overrides)
    chosen = plan.runs if options.only is None else choose_runs(plan, options.only)
    if options.list:
        for line in describe_plan(plan):
            print(line)
        return 0
    if options.report_only:
        print(write_results(plan))
        return 0
    if options.task is not None or options.start is not None:
        become_run(plan, task=options.task, start=options.start)
    left = [run for run in chosen if progress_of(run.config).stage != "done"]
    validate_runs(plan, left, validate_local_run)
    if options.dry_run:
        print(f"{len(left)} runs can start; see --list")
        return 0
    return _run_here(plan, chosen)


def describe_plan(plan: Plan) -> list[str]:
    """Return a line for each start, variant and run: its index for ``--task``, and its progress."""
    lines = [f"starts (--start INDEX), base {plan.definition.base}"] if plan.starts else []
    for index, start in enumerate(plan.starts):
        lines.append(f"{index:5}  {start.name}: {progress_of_start(start)}")
    lines.append("variants")
    lines += [f"       {v.name}: {describe_variant(v)}" for v in plan.definition.variants]
    lines.append("runs (--task INDEX)")
    for index, run in enumerate(plan.runs):
        lines.append(f"{index:5}  {run.name}: {progress_of(settings_in_use(run.config))}")
    return lines


def task_command(
    plan: Plan, environment: Mapping[str, str], *, task: int | None, start: int | None
) -> list[str]:
    """Return the command of one run, or of one start: ``job`` in a Slurm job, ``train`` elsewhere.

    Raises:
        ConfigError: there is no such run, or its start is not trained yet.
    """
    program = "job" if "SLURM_JOB_ID" in environment else "train"
    if start is not None:
        _check_index("--start", start, len(plan.starts), "starts")
        chosen = plan.starts[start]
        if program == "job" and chosen.selects_by_evaluation:
            raise ConfigError(
                f'--start {start}: sft.select ("evaluation") needs a server, which a job of the '
                'cold start alone has not; set it to "last", or train the start outside of Slurm'
            )
        return [program, str(settings_file(chosen.config)), "--only", "sft"]
    assert task is not None
    _check_index("--task", task, len(plan.runs), "runs")
    run = plan.runs[task]
    if run.start is not None and not run.start.is_done:
        raise ConfigError(
            f"--task {task}: {run.name} begins at {run.start.name}, which is "
            f"{progress_of_start(run.start)}; train it first: --start "
            f"{list(plan.starts).index(run.start)}"
        )
    return [program, str(settings_file(run.config))]


def become_run(plan: Plan, *, task: int | None, start: int | None) -> None:
    """Replace this process by one run, so that signals and exit code are that run's own."""
    words = task_command(plan, os.environ, task=task, start=start)
    write_settings(_all_configs(plan))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "megatron_rl", *words])


def _run_here(plan: Plan, chosen: Sequence[PlannedRun]) -> int:
    folder = RunDir(plan.definition.run_dir)
    with held_alone(folder), interrupted_by_signals():
        write_settings(_all_configs(plan))
        runs = LocalRuns(folder.logs, say=_say, note_end=lambda: _write(plan))
        try:
            failed = runs.run(chosen)
        finally:
            _write(plan)
    _say(f"report:  {folder.report}")
    _say(f"summary: {folder.summary}")
    if failed:
        _say(f"failed: {', '.join(failed)}; run the same command again to try them again")
    return int(bool(failed))


def _write(plan: Plan) -> None:
    write_results(plan)


def _say(line: str) -> None:
    print(line, flush=True)


def _all_configs(plan: Plan) -> list[RunConfig]:
    return [planned.config for planned in (*plan.starts, *plan.runs)]


def _check_index(option: str, index: int, count: int, what: str) -> None:
    if index >= count:
        raise ConfigError(f"{option} {index}: there are {count} {what}, from 0; see --list")
