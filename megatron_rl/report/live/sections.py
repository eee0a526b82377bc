"""Sections of the live page besides curves and samples: state, stages, servers, judge. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from megatron_rl.registry import PolicyState, RestartRequest, ServerInfo
from megatron_rl.report.cards import format_duration
from megatron_rl.report.live.run_state import RunState
from megatron_rl.report.page import nothing_html
from megatron_rl.report.progress import PHASES, TRAINING, StepTimer
from megatron_rl.report.summary import Record, is_number, phase_seconds
from megatron_rl.transfers import ServerTransfer

_JUDGE_NUMBERS = (
    ("judge/queue", "waiting for a verifier", "{:,.0f}"),
    ("judge/latency_p50_s", "median wait for a verdict", "{:.2f} s"),
    ("judge/latency_p99_s", "99th percentile", "{:.2f} s"),
    ("judge/errors", "errors", "{:,.0f}"),
    ("judge/retries", "retries", "{:,.0f}"),
    ("generation/in_flight", "completions in flight", "{:,.0f}"),
)
_WORDS = {
    "not started": "not started yet",
    "running": "running",
    "complete": "complete",
    "stopped": "stopped; the command that started it resumes it",
    "unknown": "its launcher is not on this machine",
}


def state_html(state: RunState, steps: Sequence[Record], *, now: float, last_sign: float) -> str:
    """Return the line on top: what the run does, how far it is, how long it still takes.

    Args:
        steps: records of metrics.jsonl, by step.
        now: seconds since the epoch, as ``last_sign``.
        last_sign: when anything was last written in the run's folder; 0 for never.
    """
    parts = [state.phase] if state.phase else []
    if state.num_steps is not None:
        parts.append(f"step {state.step:,} of {state.num_steps:,}")
    if state.state in ("running", "unknown"):
        parts += _times(state, steps, now)
    if state.state in ("stopped", "unknown") and last_sign:
        parts.append(f"last sign of life {format_duration(max(0.0, now - last_sign))} ago")
    name = state.state.replace(" ", "-")
    return (
        f'<span class="state {name}">{escape(_WORDS[state.state])}</span> '
        f"{escape(', '.join(parts))}"
    )


def stages_html(
    state: RunState, phases: Iterable[Record], job: Mapping[str, Any] | None, *, now: float
) -> str:
    """Return the stages with the time each took, and the roles of a Slurm job.

    Args:
        phases: records of phases.jsonl, which tells of phases that ended.
        job: contents of job.json, None without one.
        now: seconds since the epoch.
    """
    seconds = phase_seconds(phases)
    names = [*PHASES, *(name for name in [state.phase] if name and name not in PHASES)]
    items = "".join(_stage_html(name, state, seconds.get(name)) for name in names)
    stages = f'<div class="stages">{items}</div>'
    if job is None:
        return stages
    message = f"<p>{escape(job['message'])}</p>" if job["message"] else ""
    head = f"job {job['job']}, attempt {job['attempt']}: {job['state']}"
    rows = [_role_cells(role, now) for role in job["roles"]]
    table = _table(("role", "nodes", "state", "restarts"), rows)
    return f'{stages}<p class="muted">{escape(head)}</p>{message}{table}'


def servers_html(
    servers: Mapping[str, ServerInfo],
    policy: PolicyState | None,
    restarts: Mapping[str, RestartRequest],
    transfers: Mapping[str, ServerTransfer],
) -> str:
    """Return the table of servers: what each has acknowledged, and how it came."""
    if not servers:
        return nothing_html("No server is up.")
    rows = []
    for name, server in servers.items():
        word = _serves(name, server, policy)
        if name in restarts and restarts[name].incarnation == server.incarnation:
            word = f"is to start again: {restarts[name].cause}"
        weights = _came(transfers[name]) if name in transfers else ""
        rows.append((name, word, weights, server.url, str(server.tp), server.incarnation[:8]))
    head = "" if policy is None else f'<p class="muted">published: version {policy.version}</p>'
    return head + _table(("server", "serves", "weights came", "address", "tp", "incarnation"), rows)


def queues_html(
    latest: Mapping[str, float], *, batches: Sequence[int], policy: PolicyState | None
) -> str:
    """Return the judge's queue, and the batches that wait for the learner.

    Args:
        latest: metrics of the newest batch.
        batches: steps of the newest batch files.
        policy: what is published, None before that.
    """
    rows = [
        (label, form.format(latest[key]))
        for key, label, form in _JUDGE_NUMBERS
        if is_number(latest, key)
    ]
    if policy is not None:
        waiting = [step for step in batches if step >= policy.version]
        rows.append(("batches the learner has not trained on", f"{len(waiting)}"))
    if not rows:
        return nothing_html("No batch yet.")
    return _table(("judge and batches", "when the newest batch was full"), rows)


def logs_html(names: Iterable[str]) -> str:
    """Return a folded entry for each log, filled when it is unfolded."""
    entries = "".join(
        f'<details class="card log" data-log="{escape(name)}"><summary>{escape(name)}</summary>'
        "<pre></pre></details>"
        for name in names
    )
    return entries or nothing_html("No log yet.")


def _times(state: RunState, steps: Sequence[Record], now: float) -> list[str]:
    parts = []
    if state.step_began is not None:
        took = format_duration(max(0.0, now - state.step_began))
        parts.append(f"this step takes {took} so far")
    timer = StepTimer(window=32)
    for record in steps[-32:]:
        timer.mark(int(record["step"]), float(record["time"]))
    left = None if state.num_steps is None else timer.remaining_s(state.num_steps, now)
    if left and state.phase == TRAINING:
        parts.append(f"about {format_duration(left)} left")
    return parts


def _came(transfer: ServerTransfer) -> str:
    size = f"{transfer.rank_bytes / 1e6:,.1f} MB a rank"
    if transfer.transport == "shards":
        way = f" that {transfer.feeder} passed on" if transfer.feeder else ""
        return f"by shards{way}, {size}, {transfer.seconds:.2f} s"
    why = f"; not by shards: {transfer.reason}" if transfer.reason else ""
    return f"whole, by broadcast, {size}{why}"


def _serves(name: str, server: ServerInfo, policy: PolicyState | None) -> str:
    if policy is not None and (name, server.incarnation) in policy.servers.items():
        return f"version {policy.version}"
    return "waits for weights" if server.starts_without_weights else "the model it started with"


def _stage_html(name: str, state: RunState, seconds: float | None) -> str:
    kind = "now" if name == state.phase else "done" if seconds else "ahead"
    took = f' <span class="muted">{format_duration(seconds)}</span>' if seconds else ""
    return f'<span class="stage {kind}">{escape(name)}{took}</span>'


def _role_cells(role: Mapping[str, Any], now: float) -> tuple[str, ...]:
    code = role["exit_code"]
    word = f"for {format_duration(max(0.0, now - role['since']))}"
    if code is not None:
        word = "finished" if code == 0 else f"exit code {code}"
    nodes = role["nodes"]
    where = ", ".join(nodes) if len(nodes) <= 3 else f"{nodes[0]} ... {nodes[-1]} ({len(nodes)})"
    return role["name"], where, word, str(role["restarts"])


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'
