"""Evaluation schedule of a run, and the file that records what was evaluated."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal

from megatron_rl.evaluate import EvaluationResult
from megatron_rl.run_dir import RunDir, append_jsonl, drop_unfinished_line, read_jsonl
from megatron_rl.telemetry import Sink

_LOG = logging.getLogger(__name__)

When = Literal["before", "during", "after"]


def is_last_recorded(run_dir: RunDir, *, num_steps: int) -> bool:
    """Return whether the evaluation after the last step of a run is in its folder."""
    records = read_jsonl(run_dir.evaluations)
    return any(r["when"] == "after" and r["version"] == num_steps for r in records)


class Evaluations:
    """The only writer of ``evaluations.jsonl``."""

    def __init__(
        self,
        path: Path,
        *,
        measure: Callable[[], Awaitable[EvaluationResult]],
        current_version: Callable[[], int | None],
        sinks: Sequence[Sink],
    ) -> None:
        """Go on with the file at ``path``.

        Args:
            path: JSON-lines file, created when missing.
            measure: evaluates the policy that is served now.
            current_version: the published version, None while there is none.
            sinks: further places for the scores.
        """
        self._path = path
        self._measure = measure
        self._current_version = current_version
        self._sinks = sinks
        drop_unfinished_line(path)
        self._done = {(record["when"], record["version"]) for record in read_jsonl(path)}

    def has(self, when: When, *, version: int) -> bool:
        """Return whether the evaluation is recorded."""
        return (when, version) in self._done

    def is_due(self, version: int, *, every: int) -> bool:
        """Return whether an evaluation during training is due at ``version``.

        One is due when a multiple of ``every`` was passed since the last recorded version; several
        passed while an evaluation ran are one. ``every`` = 0 is never.
        """
        if every == 0:
            return False
        last = max((done for _, done in self._done if done <= version), default=0)
        return version // every * every > last

    async def run(self, when: When, *, version: int) -> None:
        """Evaluate and record the scores as those of ``version``.

        Nothing is recorded when a learner that started again has gone back behind ``version``
        meanwhile: part of the scores would be those of an older policy.
        """
        _LOG.info("evaluating version %d (%s training)", version, when)
        scores = (await self._measure()).record()
        current = self._current_version()
        if current is None or current < version:
            _LOG.warning("the learner went back behind version %d: evaluation void", version)
            return
        append_jsonl(self._path, {"version": version, "time": time.time(), "when": when, **scores})
        self._done.add((when, version))
        for sink in self._sinks:
            sink.record(version, {f"evaluation/{name}": value for name, value in scores.items()})
        _LOG.info(
            "version %d: pass@1 %.4f, maj@k %.4f in %.1f s",
            *(version, scores["pass@1"], scores["maj@k"], scores["seconds"]),
        )
