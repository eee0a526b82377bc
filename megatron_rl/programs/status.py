"""``megatron-rl status RUN_DIR``: print the state of a Slurm job, from its run folder alone."""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from megatron_rl.config import RunConfig
from megatron_rl.errors import DataError
from megatron_rl.programs.loops.barren_record import current_stretch
from megatron_rl.programs.loops.selection import describe_selection
from megatron_rl.programs.slurm_job.record import ENDED, SILENT_S
from megatron_rl.registry import PolicyState, read_policy_state, registered_servers
from megatron_rl.report.scores import set_of, sets_in
from megatron_rl.report.sources import source_lines
from megatron_rl.run_dir import RunDir, read_jsonl
from megatron_rl.slurm.control import run_folder_of
from megatron_rl.stage_record import expected_steps, read_stage_ends
from megatron_rl.transfers import ServerTransfer, read_transfers

_NUMBERS = (
    ("reward", "reward/total", "{:.3f}"),
    ("staleness", "rollout/staleness_mean", "{:.2f}"),
    ("learner tokens/s", "learner/tokens_per_s", "{:,.0f}"),
    ("generation tokens/s", "generation/tokens_per_s", "{:,.0f}"),
    ("seconds a step", "time/step_s", "{:.1f}"),
)


def main(config: RunConfig | None, options: argparse.Namespace) -> int:
    """Print the job, its numbers and its roles; return 0, or 1 when the job failed or is silent."""
    folder = Path(options.target)
    if options.target.isdecimal() and not folder.exists():
        folder = run_folder_of(options.target)
    run_dir = RunDir(folder)
    if not run_dir.job.exists():
        raise DataError(
            f"{run_dir.job}: no Slurm job has started in this folder yet; see squeue. A run of "
            "`megatron-rl train` has its own display"
        )
    job = json.loads(run_dir.job.read_text())
    for line in describe(job, run_dir, now=time.time()):
        print(line)
    return int(job["state"] == "failed" or _is_silent(job, time.time()))


def describe(job: dict[str, Any], run_dir: RunDir, *, now: float) -> Iterator[str]:
    """Yield the lines of the report.

    Args:
        job: contents of job.json.
        now: seconds since the epoch.
    """
    yield f"job {job['job']}, attempt {job['attempt']}: {job['state']}{_age(job, now)}"
    if job["deadline"] is not None and job["state"] not in ENDED:
        yield f"time to limit: {_clock(job['deadline'] - now)}"
    if job["message"]:
        yield job["message"]
    yield from _progress(run_dir)
    barren = current_stretch(run_dir.barren)
    if barren is not None:
        yield f"nothing to learn: {barren}"
        yield f"what to do: {barren.remedy}"
    yield ""
    serving = read_policy_state(run_dir)
    rows = [
        ("role", "nodes", "state", "for", "restarts"),
        *(_row(role, run_dir, serving, job, now) for role in job["roles"]),
    ]
    transfers = read_transfers(run_dir)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
    if transfers:
        yield ""
        yield from describe_transfers(transfers)


def describe_transfers(transfers: Mapping[str, ServerTransfer]) -> Iterator[str]:
    """Yield how each server got the weights that were last published."""
    for name, transfer in transfers.items():
        size = f"{transfer.rank_bytes / 1e6:,.1f} MB into its busiest rank"
        if transfer.transport == "shards":
            way = f" passed on by {transfer.feeder}" if transfer.feeder else ""
            yield f"weights of {name}: shards{way}, {size}, {transfer.seconds:.2f} s"
        else:
            why = f"; not by shards: {transfer.reason}" if transfer.reason else ""
            yield f"weights of {name}: whole tensors by broadcast, {size}{why}"


def _progress(run_dir: RunDir) -> Iterator[str]:
    yield from describe_selection(run_dir)
    for ended in read_stage_ends(run_dir):
        steps = f"steps {ended.first_step} to {ended.end}"
        yield f'stage "{ended.name}": {steps}; ended since {ended.reason}'
    metrics = last_record(run_dir.metrics)
    num_steps = expected_steps(run_dir, json.loads(run_dir.config.read_text()))
    if metrics is None:
        yield f"step 0 of {num_steps}"
        return
    yield f"step {int(metrics['step'])} of {num_steps}"
    shown = [
        f"{label} {form.format(metrics[key])}" for label, key, form in _NUMBERS if key in metrics
    ]
    evaluations = {set_of(record): record for record in read_jsonl(run_dir.evaluations)}
    for name in sets_in(evaluations.values()):
        record, of = evaluations[name], "" if name is None else f" of {name}"
        shown.append(f"pass@1{of} {record['pass@1']:.1%} at version {record['version']}")
    yield ", ".join(shown)
    yield from source_lines(metrics)


def _row(
    role: dict[str, Any],
    run_dir: RunDir,
    serving: PolicyState | None,
    job: dict[str, Any],
    now: float,
) -> tuple[str, ...]:
    nodes = role["nodes"]
    where = ",".join(nodes) if len(nodes) <= 3 else f"{nodes[0]} ... {nodes[-1]} ({len(nodes)})"
    is_over = job["state"] in ENDED or role["exit_code"] is not None
    since = "" if is_over else _clock(now - role["since"])
    return (
        role["name"],
        where,
        _state(role, run_dir, serving, is_over=is_over),
        since,
        str(role["restarts"]),
    )


def _state(
    role: dict[str, Any], run_dir: RunDir, serving: PolicyState | None, *, is_over: bool
) -> str:
    if role["exit_code"] is not None:
        return "finished" if role["exit_code"] == 0 else f"exit code {role['exit_code']}"
    if is_over:
        return "ended with the job"
    if role["kind"] != "generator" or not role["name"].startswith("serve_"):
        return "running"
    name = role["name"].replace("serve_", "server_")
    if serving is not None and name in serving.servers:
        return f"serves version {serving.version}"
    return "waits for weights" if name in registered_servers(run_dir) else "loading"


def last_record(path: Path) -> dict[str, Any] | None:
    """Return the last complete line of a JSON-lines file, None without one."""
    last = None
    for record in read_jsonl(path):
        last = record
    return last


def _is_silent(job: dict[str, Any], now: float) -> bool:
    ended = job["state"] in ENDED
    return not ended and now - job["updated"] > SILENT_S


def _age(job: dict[str, Any], now: float) -> str:
    if not _is_silent(job, now):
        return ""
    return (
        f" (no word for {_clock(now - job['updated'])}: ended by Slurm, or its node is lost; see "
        f"scontrol show job {job['job']})"
    )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=max(0, round(seconds))))
