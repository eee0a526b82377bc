"""Run one function on several ranks, each a process of its own, and return what rank 0 returned.

The function is named "module:function", lies in this folder, takes one JSON value and returns one.
"""

import contextlib
import functools
import gc
import importlib
import json
import multiprocessing
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
HANGS_AFTER_S = 800.0
"""Many times what any of them takes on two idle cores: a busy machine is no failure."""
_FIRST_PORT, _NUM_PORTS = 12_000, 4_000


def run_on_ranks(
    target: str, argument: Any, *, num_ranks: int, timeout_s: float = HANGS_AFTER_S
) -> Any:
    """Call ``target`` on every rank; AssertionError with the logs when one fails or all hang."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        logs = [Path(folder) / f"rank_{rank}.log" for rank in range(num_ranks)]
        port, forking = free_port(), _context()
        processes: list[Any] = []
        try:
            for rank, log in enumerate(logs):
                environment = os.environ | _environment(rank, num_ranks, port)
                arguments = (environment, log, target, argument, result)
                processes.append(forking.Process(target=_be_rank, args=arguments))
                processes[-1].start()
            _wait(processes, timeout_s)
        finally:
            for process in processes:
                process.kill()
                process.join()
        codes = [process.exitcode for process in processes]
        tails = "\n".join(
            f"--- rank {i}\n{log.read_text()[-4000:]}" for i, log in enumerate(logs) if log.exists()
        )
        assert codes == [0] * num_ranks, f"{target} ended with {codes}\n{tails}"
        return json.loads(result.read_text())


@functools.cache
def _context() -> Any:
    """Start the process that ranks are forked from: importing Megatron takes it seconds, once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_policy"])
    path = os.pathsep.join([str(_ROOT), str(_HERE)])
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=path, PYTHONWARNINGS="ignore", OMP_NUM_THREADS="1")
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def free_port() -> int:
    """Return a TCP port that is free and that no test of this run gets a second time.

    Ranks listen on it only later. It is from below those that the kernel gives to connections, from
    a range that no other worker of pytest-xdist draws from; and a port of an earlier job may still
    be listened on, because a store lives as long as the last reference to it.
    """
    for port in _ports():
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is left")


@functools.cache
def _ports() -> Iterator[int]:
    worker = os.environ["PYTEST_XDIST_WORKER"] if "PYTEST_XDIST_WORKER" in os.environ else "gw0"
    first = _FIRST_PORT + _NUM_PORTS * int(worker.removeprefix("gw"))
    return iter(random.sample(range(first, first + _NUM_PORTS), _NUM_PORTS))


def _environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


def _wait(processes: list[Any], timeout_s: float) -> None:
    """Wait for all to end, or for the first failure, after which the others would hang."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        codes = [process.exitcode for process in processes]
        if None not in codes or any(code not in (None, 0) for code in codes):
            return
        time.sleep(0.05)


def _be_rank(
    environment: dict[str, str], log: Path, target: str, argument: Any, result: Path
) -> None:
    """Do the work of one rank, in a process of its own, and write what rank 0 returns."""
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.chdir(_ROOT)
    # The forked process has the search path of its caller, which may be a test of another folder.
    sys.path.insert(0, str(_HERE))
    os.environ.update(environment)
    module, function = target.split(":")
    work = getattr(importlib.import_module(module), function)
    gc.freeze()  # what is imported stays: collecting cycles need not look at it
    # As the ranks of a program get it: a tuple is a list by then.
    value = work(json.loads(json.dumps(argument)))
    if os.environ["RANK"] == "0":
        result.write_text(json.dumps(value))
