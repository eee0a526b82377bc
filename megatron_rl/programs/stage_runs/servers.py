"""Server that stages share, kept by a process of its own while they come and go."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from megatron_rl.programs.builders.hardware import LocalGpus
from megatron_rl.programs.processes.children import Child, Supervisor
from megatron_rl.programs.stage_runs.process import arguments_of, hidden_gpus
from megatron_rl.programs.stage_runs.stage import Place, write_place
from megatron_rl.registry import registered_servers
from megatron_rl.run_dir import RunDir

_GRACE_S = 8.0
_POLL_S = 0.1


class ServerFailedError(Exception):
    """The server of a stage did not come up; names its log."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log = log


class StageServers:
    """The server that the present stage needs; at most one at a time."""

    def __init__(self, place: Place, *, keep: str) -> None:
        """Start nothing yet.

        Args:
            place: of all stages.
            keep: ``module:function`` of the process that starts the server, registers it and stays.
        """
        self._place = place
        self._keep = keep
        self._supervisor = Supervisor(grace_s=_GRACE_S)
        self._running: tuple[str, Child, Path] | None = None
        self._num_starts = 0
        self._unfit: dict[str, ServerFailedError] = {}

    def ensure(self, name: str, *, deadline: float) -> Path:
        """Return the run folder of a server that is up, started anew where none of the name is.

        Raises:
            ServerFailedError: it ended while starting, or was not up in time, now or before.
        """
        if self._running is not None:
            running, child, run_dir = self._running
            if running == name and child.poll() is None and registered_servers(RunDir(run_dir)):
                return run_dir
            self.close()
        if name in self._unfit:
            raise ServerFailedError(
                f"{self._unfit[name]}; that was for an earlier stage, and it was not tried again",
                self._unfit[name].log,
            )
        self._num_starts += 1
        folder = self._place.folder / "servers" / f"{self._num_starts}_{name}"
        folder.mkdir(parents=True)
        run_dir, log = folder / "run", folder / "keeper.log"
        write_place(replace(self._place, folder=folder, server=name, server_dir=run_dir))
        child = self._supervisor.start(
            "gpu-check",
            f"server {name}",
            arguments_of(self._keep, folder),
            log=log,
            environment=hidden_gpus(self._place) | self._gpus(),
        )
        self._running = (name, child, run_dir)
        self._await(name, child, run_dir, log, deadline)
        return run_dir

    def close(self) -> None:
        """End the server, if one runs."""
        if self._running is not None:
            self._supervisor.stop([self._running[1]])
            self._running = None

    def logs(self, place: Place) -> list[Path]:
        """Return the logs of the server that a stage used."""
        return [] if place.server_dir is None else list(_logs(place.server_dir))

    def _await(self, name: str, child: Child, run_dir: Path, log: Path, deadline: float) -> None:
        failure = ""
        while not registered_servers(RunDir(run_dir)):
            if child.poll() is not None:
                failure = f'the server "{name}" ended with exit code {child.poll()} while starting'
            elif time.monotonic() > deadline:
                failure = f'the server "{name}" was not up when the time of the stage was'
            if failure:
                self.close()
                self._unfit[name] = ServerFailedError(failure, next(_logs(run_dir), log))
                raise self._unfit[name]
            time.sleep(_POLL_S)

    def _gpus(self) -> dict[str, str]:
        return gpus_beside_learner(self._place).of_server(0)


def gpus_beside_learner(place: Place) -> LocalGpus:
    """Return who uses which GPU: the stage's learner the first, the server another if there is."""
    return LocalGpus(list(place.gpus), num_learners=1, num_servers=1, server_tp=1)


def _logs(run_dir: Path) -> Iterator[Path]:
    """Yield the logs of a server: SGLang's own, which is that of its program, too."""
    yield from sorted(RunDir(run_dir).logs.glob("*.log"))
