"""Board of a live page: its parts as they are to be, made from the run folder. It blocks."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from megatron_rl.errors import BatchFileError
from megatron_rl.registry import read_policy_state, registered_servers, restart_request
from megatron_rl.report.follow import GrowingRecords
from megatron_rl.report.live.batch_reader import BatchReader
from megatron_rl.report.live.logs import log_sizes
from megatron_rl.report.live.run_state import RunState, read_json, read_state
from megatron_rl.report.live.samples import latest_steps
from megatron_rl.report.live.sections import (
    logs_html,
    queues_html,
    servers_html,
    stages_html,
    state_html,
)
from megatron_rl.report.page import Drawing, draw_run, nothing_html, step_options
from megatron_rl.report.summary import latest_by, phase_seconds, summarize
from megatron_rl.run_dir import RunDir, read_jsonl
from megatron_rl.transfers import read_transfers

_DRAWING_SHARE = 0.1
"""Drawing takes at most about this share of the time, however long the run is."""
_LOGS_EVERY_S = 5.0


class Board:
    """The parts of the page by the id of their element; nothing in the run folder is changed."""

    def __init__(self, run_dir: RunDir, *, clock: Callable[[], float] = time.time) -> None:
        self._run_dir = run_dir
        self._clock = clock
        self._metrics = GrowingRecords(run_dir.metrics)
        self._evaluations = GrowingRecords(run_dir.evaluations)
        self._sft_metrics = GrowingRecords(run_dir.sft / "metrics.jsonl")
        self._phases = GrowingRecords(run_dir.phases)
        self._steps: list[Mapping[str, Any]] = []
        self._is_outdated = True
        self._logs_at = 0.0
        self._queue: tuple[int, Mapping[str, float]] = (-1, {})
        self._keys: set[str] = set()
        self.log_names: list[str] = []
        self.batch_steps: Sequence[int] = []
        self.parts: dict[str, str] = {}
        self.drawing = self._draw()
        self._draw_again_at = 0.0
        self.state = read_state(run_dir, [], None, now=0.0)

    @property
    def server_keys(self) -> frozenset[str]:
        """Keys of servers there are and were, which no log may show."""
        return frozenset(self._keys)

    def refresh(self) -> RunState:
        """Look at the run folder again and return the run's state."""
        now = self._clock()
        followed = (self._metrics, self._evaluations, self._sft_metrics, self._phases)
        changed = [records.refresh() for records in followed]
        if any(changed):
            self._is_outdated = True
            self._steps = latest_by(self._metrics.records, "step")
        if self._is_outdated and time.monotonic() >= self._draw_again_at:
            self.drawing = self._draw()
        job = read_json(self._run_dir.job)
        self.state = read_state(self._run_dir, self._steps, job, now=now)
        last_sign = self._last_sign()
        self.parts |= {
            "subtitle": self.drawing.subtitle,
            "numbers": self.drawing.cards,
            "scores": self.drawing.scores,
            "rows": self.drawing.rows,
            "state": state_html(self.state, self._steps, now=now, last_sign=last_sign),
            "stages": stages_html(self.state, self._phases.records, job, now=now),
            "servers": self._servers_html(),
        }
        self._refresh_batches()
        self._refresh_logs(now)
        return self.state

    def _draw(self) -> Drawing:
        started = time.monotonic()
        records = {
            "metrics": self._metrics.records,
            "evaluations": self._evaluations.records,
            "sft_metrics": self._sft_metrics.records,
        }
        summary = summarize(**records, phase_seconds=phase_seconds(self._phases.records))
        drawing = draw_run(summary, **records, stages=list(read_jsonl(self._run_dir.stages)))
        ended = time.monotonic()
        self._is_outdated = False
        self._draw_again_at = ended + (ended - started) / _DRAWING_SHARE
        return drawing

    def _servers_html(self) -> str:
        try:
            servers = registered_servers(self._run_dir)
        except PermissionError:
            return nothing_html("The servers' files may be read by the run's user only.")
        self._keys |= {server.api_key for server in servers.values() if server.api_key}
        requests = {name: restart_request(self._run_dir, name) for name in servers}
        restarts = {name: request for name, request in requests.items() if request is not None}
        policy, transfers = read_policy_state(self._run_dir), read_transfers(self._run_dir)
        return servers_html(servers, policy, restarts, transfers)

    def _refresh_batches(self) -> None:
        self.batch_steps = steps = latest_steps(self._run_dir)
        if steps and steps[0] != self._queue[0]:
            try:
                batch = BatchReader(self._run_dir.batch(steps[0]))
                self._queue = steps[0], batch.metrics
            except BatchFileError:  # removed meanwhile
                pass
        self.parts["filter-step"] = step_options(steps)
        self.parts["queues"] = queues_html(
            self._queue[1], batches=steps, policy=read_policy_state(self._run_dir)
        )

    def _refresh_logs(self, now: float) -> None:
        if 0 <= now - self._logs_at < _LOGS_EVERY_S:
            return
        self._logs_at = now
        self.log_names = list(log_sizes(self._run_dir.logs))
        self.parts["logs"] = logs_html(self.log_names)

    def _last_sign(self) -> float:
        """Return when anything was last written, in seconds since the epoch; 0 for never."""
        watched = (self._run_dir.metrics, self._run_dir.policy, self._run_dir.batches)
        times = [os.stat(path).st_mtime for path in watched if path.exists()]
        return max(times, default=0.0)
