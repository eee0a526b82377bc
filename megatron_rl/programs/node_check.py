"""``megatron-rl doctor CONFIG --node HEAD:PORT``: what a node of a Slurm job finds about itself.

The head node's :class:`ClockServer` answers on that port, which tests names, routes and clocks at
once. The facts go to ``RUN_DIR/preflight/STEP/NODE.json``.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from megatron_rl.config import RunConfig
from megatron_rl.lifetime import STEP_VARIABLE
from megatron_rl.planning.preflight import NodeFacts
from megatron_rl.run_dir import RunDir, write_json

TOKEN = "token"
"""File in the preflight folder that the head node wrote."""
_PACKAGES = ("megatron-rl", "torch", "megatron-core", "transformer-engine", "transformers")
_PROBE = "import importlib.metadata as m; print(m.version('sglang'))"
_GPU_QUERY = "--query-gpu=index,ecc.errors.uncorrected.volatile.total,memory.used"
_BUSY_MB = 2000
_SAMPLE_BYTES = 32 * 2**20
_GB, _MB = 1e9, 1e6
_TIMEOUT_S = 20.0
_DOUBLE = struct.Struct(">d")


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Write this node's facts; 0, whatever they are."""
    run_dir = RunDir(config.run_dir)
    node = os.environ["SLURMD_NODENAME"]
    problems: list[str] = []
    write_rate, read_rate = _file_rates(run_dir.preflight, node, problems)
    facts = NodeFacts(
        node=node,
        versions=dict(_versions(config, options.kinds, problems)),
        gpus=_gpus(problems),
        memory_gb=_free_memory_gb(),
        shm_gb=shutil.disk_usage("/dev/shm").free / _GB,
        write_mb_s=write_rate,
        read_mb_s=read_rate,
        skew_s=_skew(options.node, problems),
        problems=problems,
    )
    with contextlib.suppress(OSError):  # then the head node hears nothing, and says so
        look = os.environ[STEP_VARIABLE]  # another image on this node has a look of its own
        write_json(run_dir.preflight / look / f"{node}.json", dataclasses.asdict(facts))
    print(facts, flush=True)
    return 0


class ClockServer:
    """Tells whoever connects what time it is here."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, name="clock", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake a thread that waits in accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(timeout=_TIMEOUT_S)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                caller, _ = self._listener.accept()
                with caller, contextlib.suppress(OSError):
                    caller.sendall(_DOUBLE.pack(time.time()))


def _skew(address: str, problems: list[str]) -> float:
    """Return how far this clock is ahead of the head node's, in seconds."""
    host, _, port = address.rpartition(":")
    try:
        sent = time.time()
        with socket.create_connection((host, int(port)), timeout=_TIMEOUT_S) as head:
            (there,) = _DOUBLE.unpack(head.recv(_DOUBLE.size, socket.MSG_WAITALL))
        return (sent + time.time()) / 2 - there
    except socket.gaierror:
        problems.append(f"the name {host} means nothing here; add it to DNS or /etc/hosts")
    except OSError as error:
        problems.append(f"{host} cannot be reached ({error}); open the ports between nodes")
    return 0.0


def _file_rates(folder: Path, node: str, problems: list[str]) -> tuple[float, float]:
    """Return MB/s of writing and reading in the run folder, and see that it is the head node's."""
    if not (folder / TOKEN).exists():
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


def _versions(
    config: RunConfig, kinds: list[str], problems: list[str]
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
    if "generator" in kinds:
        version = _sglang(config.generators.python, problems)
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
