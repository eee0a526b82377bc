"""``megatron-rl check-node JSON``: print the facts of this node of a Slurm job.

The head node's ``HeadServer`` answers it, which tests names, routes and clocks at once.
The facts are printed, which srun brings to the head node, whatever this node sees of the run
folder; for the same reason nothing is read there.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_rl.learner.device.apex import REMEDY, find_apex
from megatron_rl.placement.node_facts import NodeCheck, NodeFacts, to_lines
from megatron_rl.programs.slurm_job.head_node import ask_head, own_name

TOKEN = "token"
"""File in the preflight folder that holds what the head node tells nodes to find there."""
_PACKAGES = ("megatron-rl", "torch", "megatron-core", "transformer-engine", "transformers")
_PROBE = "import importlib.metadata as m; print(m.version('sglang'))"
_GPU_QUERY = "--query-gpu=index,ecc.errors.uncorrected.volatile.total,memory.used"
_BUSY_MB = 2000
_SAMPLE_BYTES = 32 * 2**20
_GB, _MB = 1e9, 1e6
_TIMEOUT_S = 20.0


def main(_: None, options: argparse.Namespace) -> int:
    """Print this node's facts; 0, whatever they are."""
    check = NodeCheck(**json.loads(options.check))
    node = os.environ["SLURMD_NODENAME"]
    problems: list[str] = []
    write_rate, read_rate = _file_rates(Path(check.folder), node, check.token, problems)
    name = own_name(problems) if check.is_called else None
    serves = "generator" in check.kinds
    facts = NodeFacts(
        node=node,
        versions=dict(_versions(check.kinds, Path(check.serving_python), problems)),
        gpus=_gpus(problems),
        memory_gb=_free_memory_gb(),
        shm_gb=shutil.disk_usage("/dev/shm").free / _GB,
        write_mb_s=write_rate,
        read_mb_s=read_rate,
        skew_s=ask_head(check.head, listens_as=name if serves else None, problems=problems),
        problems=problems,
    )
    print("\n".join(to_lines(facts, token=check.token)), flush=True)
    return 0


def _file_rates(folder: Path, node: str, token: str, problems: list[str]) -> tuple[float, float]:
    """Return MB/s of writing and reading in the run folder, and see that it is the head node's."""
    if not _holds(folder / TOKEN, token):
        problems.append(
            f"{folder} is not the head node's; put run_dir on a file system that all nodes see"
        )
        return 0.0, 0.0
    sample = folder / f".{node}.sample"
    data = os.urandom(_SAMPLE_BYTES)
    try:
        started = time.perf_counter()
        with sample.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter()
        read = sample.read_bytes()
        ended = time.perf_counter()
    except OSError as error:
        problems.append(
            f"{folder} cannot be written: {error.strerror}; free space or change run_dir"
        )
        return 0.0, 0.0
    finally:
        with contextlib.suppress(OSError):
            sample.unlink(missing_ok=True)
    if read != data:
        problems.append(
            f"{folder} gives back other bytes than were written; use another file system"
        )
    return _SAMPLE_BYTES / _MB / (written - started), _SAMPLE_BYTES / _MB / (ended - written)


def _holds(path: Path, token: str) -> bool:
    """Return whether the file is the head node's; one of an earlier job may be on a local disk."""
    try:
        return path.read_text() == token
    except OSError:
        return False


def _versions(
    kinds: Sequence[str], serving_python: Path, problems: list[str]
) -> Iterator[tuple[str, str]]:
    """Return what is installed for the programs of this node."""
    yield "python", platform.python_version()
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield package, importlib.metadata.version(package)
    if "learner" in kinds:
        for package in ("torch", "megatron-core"):
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                problems.append(
                    f"{package} is missing in this environment; pip install 'megatron-rl[learn]'"
                )
        apex = find_apex()
        if apex.kind == "unrelated":
            problems.append(
                f"{apex.folder} is the package index's unrelated apex, which Megatron takes for "
                f"NVIDIA's; {REMEDY}"
            )
        yield "apex", apex.kind
    if "generator" in kinds:
        version = _sglang(serving_python, problems)
        if version is not None:
            yield "sglang", version


def _sglang(python: Path, problems: list[str]) -> str | None:
    try:
        done = subprocess.run(
            [str(python), "-c", _PROBE], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        problems.append(f"generators.python ({python}) cannot be run: {error}; make env")
        return None
    if done.returncode:
        problems.append(f"generators.python ({python}) has no sglang; make env, or name another")
        return None
    return done.stdout.strip()


def _gpus(problems: list[str]) -> int:
    """Return how many GPUs answer, and name those that are ill or busy."""
    if shutil.which("nvidia-smi") is None:
        return 0
    command = ["nvidia-smi", _GPU_QUERY, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        problems.append("nvidia-smi hangs; have the driver reset")
        return 0
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    for line in lines:
        index, errors, used = (cell.strip() for cell in line.split(","))
        if errors.isdecimal() and int(errors):
            problems.append(f"GPU {index} has {errors} uncorrected memory errors; have it reset")
        if used.isdecimal() and int(used) > _BUSY_MB:
            problems.append(f"GPU {index} has {used} MB in use by others; end what runs there")
    return len(lines)


def _free_memory_gb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / _GB
    raise AssertionError("no MemAvailable in /proc/meminfo")
