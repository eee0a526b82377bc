"""Run folder: the path of every file of a run, and writing a file whole or not at all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths of one run. Programs share nothing but this folder (and HTTP)."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration, JSON."""
        return self.root / "config.json"

    @property
    def servers(self) -> Path:
        """One private JSON file per generation server: URL, key, incarnation."""
        return self.root / "servers"

    @property
    def policy(self) -> Path:
        """The published policy version and the servers that acknowledged it, JSON."""
        return self.root / "policy.json"

    @property
    def transfers(self) -> Path:
        """How each server got the last published weights, JSON; the learner writes it."""
        return self.root / "transfers.json"

    @property
    def batches(self) -> Path:
        """Batches of rollout for the learner, one safetensors file per step."""
        return self.root / "batches"

    @property
    def checkpoints(self) -> Path:
        """Megatron checkpoints of the RL phase."""
        return self.root / "checkpoints"

    @property
    def weights(self) -> Path:
        """Hugging Face folders of the ``disk`` weight transport."""
        return self.root / "weights"

    @property
    def sft(self) -> Path:
        """Checkpoints and Hugging Face export of the cold start."""
        return self.root / "sft"

    @property
    def sft_hf(self) -> Path:
        """The model that the cold start ends with, in Hugging Face format."""
        return self.sft / "hf"

    @property
    def sft_candidates(self) -> Path:
        """Models of the cold start that evaluation selects from, a folder for each step."""
        return self.sft / "candidates"

    @property
    def sft_selection(self) -> Path:
        """One JSON line per candidate that is scored; `megatron-rl select` writes it."""
        return self.sft / "selection.jsonl"

    @property
    def is_cold_start_done(self) -> bool:
        """Whether the cold start's model is there; it appears whole."""
        return self.sft_hf.exists()

    @property
    def hf(self) -> Path:
        """The final model in Hugging Face format."""
        return self.root / "hf"

    @property
    def metrics(self) -> Path:
        """One JSON line per learner step; the learner is the only writer."""
        return self.root / "metrics.jsonl"

    @property
    def stages(self) -> Path:
        """One JSON line per stage that is over; the learner is the only writer."""
        return self.root / "stages.jsonl"

    def stage_config(self, number: int, name: str) -> Path:
        """The resolved configuration of one stage, JSON."""
        return self.root / "stages" / f"{number:02d}_{name}.json"

    @property
    def evaluations(self) -> Path:
        """One JSON line per evaluation; the rollout program is the only writer."""
        return self.root / "evaluations.jsonl"

    @property
    def evaluation_samples(self) -> Path:
        """Samples of each evaluation, one JSON-lines file each; a folder for each named set."""
        return self.root / "evaluations"

    def samples_of(self, set_name: str | None) -> Path:
        """Return the folder of the samples of a held-out set."""
        folder = self.evaluation_samples
        return folder if set_name is None else folder / set_name

    @property
    def first_samples(self) -> Path:
        """What the first completions of the run have in common, JSON."""
        return self.root / "first_samples.json"

    @property
    def barren(self) -> Path:
        """One JSON line per report that all groups are dropped; rollout is the only writer."""
        return self.root / "barren.jsonl"

    @property
    def outcomes(self) -> Path:
        """One JSON line per batch with the outcomes of its groups and of those dropped, where
        problems have a lifecycle; rollout is the only writer."""
        return self.root / "outcomes.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard event files, one folder per writer."""
        return self.root / "tensorboard"

    @property
    def logs(self) -> Path:
        """Output of each program."""
        return self.root / "logs"

    @property
    def job(self) -> Path:
        """The Slurm job of the run, its roles and their states, JSON; see programs.job."""
        return self.root / "job.json"

    @property
    def preflight(self) -> Path:
        """Node facts of the last Slurm job, one JSON file per node."""
        return self.root / "preflight"

    def attempt_logs(self, job: str, attempt: int) -> Path:
        """Output of each program in one life of a Slurm job; 0 is the first life."""
        return self.logs / f"job_{job}" / f"attempt_{attempt}"

    @property
    def phases(self) -> Path:
        """Start and end of each phase, one JSON line each; the launcher is the only writer."""
        return self.root / "phases.jsonl"

    @property
    def summary(self) -> Path:
        """Summary of the run, JSON."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """Report of the run, HTML."""
        return self.root / "report.html"

    def batch(self, step: int) -> Path:
        """Batch that takes the policy from version ``step`` to ``step + 1``."""
        return self.batches / f"step_{step:06d}.safetensors"


def publish_atomically(path: Path, payload: bytes, *, mode: int = 0o644) -> None:
    """Write so that a reader sees either no file or the whole file, even across a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def publish_stream(path: Path) -> Iterator[TextIO]:
    """Open a text file that appears whole when the block ends, and not at all if it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    """Publish ``value`` as an indented JSON file."""
    publish_atomically(path, (json.dumps(value, indent=1) + "\n").encode(), mode=mode)


def append_jsonl(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line; the file has exactly one writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def drop_unfinished_line(path: Path) -> None:
    """Remove a last line that a crash cut short, or the next line would be appended to it."""
    if path.exists():
        text = path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            publish_atomically(path, whole.encode())


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a JSON-lines file that may still be growing; none if missing."""
    if not path.exists():
        return
    with path.open() as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
