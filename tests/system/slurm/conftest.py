"""One throw-away cluster for all tests of this folder, and how runs are submitted to it."""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from cluster import OVER, Cluster, cluster, missing_programs, num_stand_ins
from tiny_run import HANGS_AFTER_S, REPOSITORY, SERVE_PYTHON, write_config, write_inputs

SCRIPT = REPOSITORY / "launchers/slurm/train.sbatch"


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A disk of 2 MB; None where this machine does not let us mount one."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    is_mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    yield folder if is_mounted else None
    if is_mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def slurm(small_disk: Path | None) -> Iterator[Cluster]:
    """Three nodes of 8 CPUs, and of 4 GPUs that are none. What is mounted later they do not see."""
    missing = missing_programs()
    if missing:
        pytest.skip(f"no Slurm on this machine: {', '.join(missing)} missing")
    if not SERVE_PYTHON.exists():
        pytest.skip("no serving environment in .venv-serve")
    # Sockets' paths may be no longer than 108 characters, which pytest's folders exceed.
    with (
        tempfile.TemporaryDirectory(prefix="slurm-") as folder,
        cluster(Path(folder) / "c", num_nodes=3, cpus=8, gpus=num_stand_ins(4)) as up,
    ):
        yield up


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def submit(slurm: Cluster, inputs: Path, tmp_path: Path) -> Callable[..., "Submitted"]:
    """Submit the tiny run; by default one learner rank and server, on CPU nodes."""

    def submit_run(
        *settings: str,
        nodes: int = 1,
        sft: bool = False,
        name: str = "run",
        options: tuple[str, ...] = (),
        run_dir: Path | None = None,
    ) -> Submitted:
        run_dir = tmp_path / name if run_dir is None else run_dir
        config = write_config(inputs, run_dir, sft=sft)
        return sbatch(
            *(slurm, config, run_dir),
            *settings,
            log=tmp_path / f"{name}.log",
            options=(f"--nodes={nodes}", *options),
        )

    return submit_run


def sbatch(
    slurm: Cluster, config: Path, run_dir: Path, *settings: str, log: Path, options: Sequence[str]
) -> "Submitted":
    """Submit a run to nodes without GPUs."""
    done = subprocess.run(
        [
            *("sbatch", "--parsable", "--time=60", f"--output={log}"),
            *options,
            *(str(SCRIPT), str(config), "launch.gpus_per_node=0"),
            f"launch.python={REPOSITORY}/.venv/bin/python",
            *settings,
        ],
        env=slurm.environment
        | {"MEGATRON_RL": f"{REPOSITORY}/.venv/bin/megatron-rl", "OMP_NUM_THREADS": "1"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return Submitted(slurm, done.stdout.strip(), run_dir, log)


class Submitted:
    """A job in the cluster, and the run it is for."""

    def __init__(self, slurm: Cluster, job: str, run_dir: Path, log: Path) -> None:
        self.slurm, self.job, self.run_dir, self.log = slurm, job, run_dir, log

    @property
    def output(self) -> str:
        """What the job itself printed so far."""
        return self.log.read_text() if self.log.exists() else ""

    def end(self, *, within_s: float = HANGS_AFTER_S) -> tuple[str, int]:
        """Wait for the end; return state and exit code. A job that hangs tells its logs."""
        try:
            return self.slurm.wait_for_end(self.job, within_s=within_s)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.output}\n{self.ends_of_logs()}") from None

    def ends_of_logs(self) -> str:
        """Return the last lines of what each program and Slurm itself wrote."""
        paths = [*sorted((self.run_dir / "logs").rglob("*.log")), *self.slurm.folder.glob("log/*")]
        return "\n".join(f"== {path}\n{path.read_text()[-1500:]}" for path in paths)

    @property
    def is_over(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.slurm.state_of(self.job)[0] in OVER

    def processes(self, *words: str) -> list[int]:
        """Return the run's living programs whose command lines hold all the words."""
        found = self.slurm.processes(str(self.run_dir))
        return [
            pid
            for pid, line in found.items()
            if all(word in line for word in words)
            and Path(line.split()[0]).name not in ("bash", "srun")
        ]

    def survivors(self) -> list[str]:
        """Return the command lines of everything of the run that still lives."""
        return list(self.slurm.processes(str(self.run_dir)).values())


def pytest_configure(config: pytest.Config) -> None:
    """Leave the caller's own Slurm alone."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        del os.environ[name]
