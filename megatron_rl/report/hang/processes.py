"""Processes of a run on this machine, found in /proc by their command lines."""

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("learn", "sft", "rollout", "serve")
"""Programs that one can be waiting for another of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunProcess:
    """One program of the run."""

    pid: int
    program: str
    """One of ``PROGRAMS``."""
    rank: int | None
    """Among the ranks of ``learn`` or ``sft``; None for others."""
    world_size: int | None
    """Ranks there are, on all machines; None for others."""
    state: str = "S"
    """Letter of the kernel: R runs, S sleeps, D sleeps and hears no signal, T is stopped."""

    @property
    def name(self) -> str:
        """Say which it is: ``learn rank 3``."""
        return self.program if self.rank is None else f"{self.program} rank {self.rank}"


def find_processes(run_dir: Path, *, proc: Path = Path("/proc")) -> list[RunProcess]:
    """Return the run's processes that this user may look at, by program and rank.

    Args:
        run_dir: the run's folder, absolute.
        proc: the process file system.
    """
    found: dict[int, RunProcess] = {}
    parents: dict[int, int] = {}
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            state, parent = _state_and_parent(folder)
            process = _read(folder, run_dir, state)
        except (OSError, ValueError, KeyError):  # ended, of another user, or of no run
            continue
        if process is not None:
            found[process.pid] = process
            parents[process.pid] = parent
    # A child that was forked off has its parent's command line: a writer of checkpoints, a worker.
    own = [process for pid, process in found.items() if parents[pid] not in found]
    return sorted(own, key=lambda p: (PROGRAMS.index(p.program), p.rank or 0, p.pid))


def _read(folder: Path, run_dir: Path, state: str) -> RunProcess | None:
    words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    command = command_of(words)
    if command is None or not _is_of_run(command, folder, run_dir):
        return None
    program = command[0]
    is_rank = program in ("learn", "sft")
    environment = dict(_environment(folder)) if is_rank else {}
    return RunProcess(
        pid=int(folder.name),
        program=program,
        rank=_number(environment, "RANK", "SLURM_PROCID") if is_rank else None,
        world_size=_number(environment, "WORLD_SIZE", "SLURM_NTASKS") if is_rank else None,
        state=state,
    )


def command_of(words: Sequence[str]) -> Sequence[str] | None:
    """Return one of ``PROGRAMS`` and its arguments, None when a command line runs none of them."""
    if not words or not Path(words[0]).name.startswith(("python", "megatron-rl")):
        return None
    for i, word in enumerate(words[:-2]):
        is_ours = word == "megatron_rl" and words[i - 1] == "-m"
        if (is_ours or Path(word).name == "megatron-rl") and words[i + 1] in PROGRAMS:
            return words[i + 1 :]
    return None


def _is_of_run(command: Sequence[str], folder: Path, run_dir: Path) -> bool:
    config = Path(os.readlink(folder / "cwd"), command[1])
    if config.name == "config.json":
        return config.parent.resolve() == run_dir.resolve()
    settings = [word.removeprefix("--set=") for word in command[2:]]
    named = [word.removeprefix("run_dir=") for word in settings if word.startswith("run_dir=")]
    where = named[-1] if named else tomllib.loads(config.read_text())["run_dir"]
    return (Path(os.readlink(folder / "cwd")) / where).resolve() == run_dir.resolve()


def _state_and_parent(folder: Path) -> tuple[str, int]:
    # The command may hold blanks and brackets; what follows its last one is fixed.
    state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
    return state, int(parent)


def _environment(folder: Path) -> Iterator[tuple[str, str]]:
    for entry in (folder / "environ").read_bytes().decode(errors="replace").split("\0"):
        name, equals, value = entry.partition("=")
        if equals:
            yield name, value


def _number(environment: Mapping[str, str], *names: str) -> int | None:
    for name in names:
        if name in environment and environment[name].isdecimal():
            return int(environment[name])
    return None
