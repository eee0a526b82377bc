"""Metrics of one writer: JSON lines always, TensorBoard and Weights & Biases on request."""

import importlib.util
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from megatron_rl.errors import ConfigError
from megatron_rl.run_dir import append_jsonl, publish_atomically


class Sink(Protocol):
    """Destination of the metrics of a step, besides the JSON lines."""

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of ``step``."""
        ...

    def close(self) -> None:
        """Flush and release."""
        ...


class Telemetry:
    """Records the metrics of each step in ``metrics_path`` and in every sink."""

    def __init__(self, metrics_path: Path, *, sinks: Sequence[Sink]) -> None:
        self._metrics_path = metrics_path
        self._sinks = sinks

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one JSON line {"step", "time", **metrics} and pass the metrics to the sinks.

        Args:
            step: policy version after the step.
            metrics: flat name -> number; names look like ``policy/loss``.
        """
        assert not {"step", "time"} & metrics.keys(), f"reserved names in {sorted(metrics)}"
        append_jsonl(self._metrics_path, {"step": step, "time": time.time(), **metrics})
        for sink in self._sinks:
            sink.record(step, metrics)

    def close(self) -> None:
        """Close every sink; all recorded metrics are on disk or sent."""
        for sink in self._sinks:
            sink.close()


class TensorBoardSink:
    """Event files in one folder of this writer."""

    def __init__(self, folder: Path, *, purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # late: importing takes seconds

        # TensorBoard hides the events that an earlier life of the run wrote from purge_step on.
        self._writer = SummaryWriter(log_dir=str(folder), purge_step=purge_step)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one scalar per metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        # A step takes seconds to minutes, so flushing is cheap and a crash loses nothing.
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WandbSink:
    """One Weights & Biases run, continued when the training run is."""

    def __init__(self, *, project: str, run_name: str, run_id: str, folder: Path) -> None:
        # Late: optional, and importing takes seconds.
        import wandb  # type: ignore[import-not-found, unused-ignore]

        self._run = wandb.init(
            project=project, name=run_name, id=run_id, dir=str(folder), resume="allow"
        )
        # W&B's own step may only grow; a resumed run trains some steps a second time.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics against ``step``."""
        self._run.log({**metrics, "step": step})

    def close(self) -> None:
        """Finish the upload."""
        self._run.finish()


def check_telemetry(*, tensorboard: bool, wandb_project: str | None) -> None:
    """Raise ConfigError when a requested sink lacks its package; touches nothing."""
    if tensorboard and not _is_installed("tensorboard"):
        raise ConfigError("telemetry.tensorboard (true) needs the tensorboard package")
    if wandb_project is not None and not _is_installed("wandb"):
        raise ConfigError(
            f"telemetry.wandb_project ({wandb_project!r}) needs the wandb package: "
            "pip install wandb, or remove the key"
        )


def open_telemetry(
    metrics_path: Path,
    *,
    tensorboard: Path | None,
    wandb_project: str | None,
    run_name: str,
    from_step: int,
) -> Telemetry:
    """Open every requested sink of one writer and drop the steps that will be trained again.

    Args:
        metrics_path: JSON-lines file that only this writer appends to.
        tensorboard: this writer's folder of event files; None writes none.
        wandb_project: Weights & Biases project; None sends nothing.
        run_name: name of the run in Weights & Biases.
        from_step: policy version the writer starts from; 0 for a fresh run.

    Raises:
        ConfigError: a requested sink lacks its package.
    """
    check_telemetry(tensorboard=tensorboard is not None, wandb_project=wandb_project)
    truncate_metrics(metrics_path, from_step=from_step)
    sinks: list[Sink] = []
    if tensorboard is not None:
        sinks.append(TensorBoardSink(tensorboard, purge_step=from_step + 1))
    if wandb_project is not None:
        run_id = _persistent_id(metrics_path.with_name("wandb_run_id"))
        # W&B makes its own folder "wandb" there.
        folder = metrics_path.parent
        sinks.append(
            WandbSink(project=wandb_project, run_name=run_name, run_id=run_id, folder=folder)
        )
    return Telemetry(metrics_path, sinks=sinks)


def truncate_metrics(path: Path, *, from_step: int) -> None:
    """Drop the lines of steps after ``from_step``, which a resumed run trains again.

    A last line that a crash cut short is dropped as well: the next line would be appended to it.
    """
    if not path.exists():
        return
    text = path.read_text()
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    kept = "".join(line for line in lines if json.loads(line)["step"] <= from_step)
    if kept != text:
        publish_atomically(path, kept.encode())


def _is_installed(package: str) -> bool:
    """Return whether the package can be imported; a mere folder of that name does not count."""
    spec = importlib.util.find_spec(package)
    # W&B leaves a folder "wandb" behind, which Python takes for a namespace without a file.
    return spec is not None and spec.origin is not None


def _persistent_id(path: Path) -> str:
    """Return the identifier stored at ``path``, making one up the first time."""
    if not path.exists():
        publish_atomically(path, uuid.uuid4().hex[:16].encode())
    return path.read_text()
