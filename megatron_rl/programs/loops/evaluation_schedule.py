"""Evaluation schedule of a run, and the file that records what was evaluated."""

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from megatron_rl.evaluate import EvaluationResult
from megatron_rl.report.scores import set_of
from megatron_rl.run_dir import RunDir, append_jsonl, drop_unfinished_line, read_jsonl
from megatron_rl.telemetry import Sink

_LOG = logging.getLogger(__name__)

When = Literal["before", "during", "after"]


def is_last_recorded(run_dir: RunDir, *, num_steps: int, sets: Collection[str | None]) -> bool:
    """Return whether the evaluations after the last step of a run are in its folder.

    Args:
        sets: names of the run's held-out sets, None for the one without a name.
    """
    done = {
        set_of(record)
        for record in read_jsonl(run_dir.evaluations)
        if record["when"] == "after" and record["version"] == num_steps
    }
    return done.issuperset(sets)


class Evaluations:
    """Evaluations of one held-out set; those of a run are the writers of ``evaluations.jsonl``."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        set_name: str | None,
        place: int,
        measure: Callable[[Path, int], Awaitable[EvaluationResult]],
        current_version: Callable[[], int | None],
        sinks: Sequence[Sink],
    ) -> None:
        """Go on with what is in the run folder.

        Args:
            run_dir: of the run.
            set_name: of the held-out set, None for the one without a name.
            place: of the set among those of the run, from 0.
            measure: evaluates the policy that is served now, as that of a version; it keeps its
                samples in a file, and goes on from those that are in it.
            current_version: the published version, None while there is none.
            sinks: further places for the scores.
        """
        self._path = run_dir.evaluations
        self._set_name = set_name
        self._place = place
        self._samples = run_dir.samples_of(set_name)
        self._measure = measure
        self._current_version = current_version
        self._sinks = sinks
        drop_unfinished_line(self._path)
        self._done = {
            (record["when"], record["version"])
            for record in read_jsonl(self._path)
            if set_of(record) == set_name
        }
        begun = {int(path.stem.rpartition("_")[2]) for path in self._samples.glob("during_*.jsonl")}
        self._interrupted = begun - {version for when, version in self._done if when == "during"}

    def has(self, when: When, *, version: int) -> bool:
        """Return whether the evaluation is recorded."""
        return (when, version) in self._done

    def due(self, version: int, *, every: int) -> int | None:
        """Return the version that is to be evaluated during training, None when none is due.

        One is due when a multiple of ``every`` was passed since the last recorded version; several
        passed while an evaluation ran are one. ``every`` = 0 is never. It is ``version`` itself, or
        the one at which an evaluation was interrupted, if no other multiple has passed since.
        """
        if every == 0:
            return None
        last = max((done for _, done in self._done if done <= version), default=0)
        multiple = version // every * every
        if multiple <= last:
            return None
        begun = (v for v in self._interrupted if max(multiple, last + 1) <= v <= version)
        return max(begun, default=version)

    async def run(self, when: When, *, version: int) -> None:
        """Evaluate and record the scores as those of ``version``.

        Nothing is recorded when a learner that started again has gone back behind ``version``
        meanwhile: part of the scores would be those of an older policy.
        """
        title = "" if self._set_name is None else f" on {self._set_name}"
        _LOG.info("evaluating version %d%s (%s training)", version, title, when)
        samples = self._samples / f"{when}_{version:06d}.jsonl"
        scores = (await self._measure(samples, version)).record()
        current = self._current_version()
        if current is None or current < version:
            _LOG.warning("the learner went back behind version %d: evaluation void", version)
            return
        named = {"set": self._set_name, "place": self._place} if self._set_name is not None else {}
        head = {"version": version, "time": time.time(), "when": when, **named}
        append_jsonl(self._path, head | scores)
        self._done.add((when, version))
        for sink in self._sinks:
            sink.record(version, metric_names(self._set_name, scores))
        _LOG.info(
            "version %d%s: pass@1 %.4f, maj@k %.4f in %.1f s",
            *(version, title, scores["pass@1"], scores["maj@k"], scores["seconds"]),
        )


def metric_names(set_name: str | None, scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores under the names of metrics: evaluation/pass@1, evaluation/aime24/pass@1."""
    prefix = "evaluation/" if set_name is None else f"evaluation/{set_name}/"
    return {f"{prefix}{name}": value for name, value in scores.items()}
