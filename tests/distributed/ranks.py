"""Run one function on several ranks, each a process of its own, and return what rank 0 returned.

The function is named "module:function", lies in this folder, takes one JSON value and returns one.
"""

import contextlib
import gc
import importlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
HANGS_AFTER_S = 800.0
"""Many times what any of them takes on two idle cores: a busy machine is no failure."""


def run_on_ranks(
    target: str, argument: Any, *, num_ranks: int, timeout_s: float = HANGS_AFTER_S
) -> Any:
    """Call ``target`` on every rank; AssertionError with the logs when one fails or all hang."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        logs = [Path(folder) / f"rank_{rank}.log" for rank in range(num_ranks)]
        port = free_port()
        processes = []
        try:
            for rank, log in enumerate(logs):
                environment = _environment(rank, num_ranks, port)
                with log.open("wb") as output:
                    processes.append(
                        subprocess.Popen(
                            [sys.executable, __file__, target, json.dumps(argument), str(result)],
                            env=os.environ | environment,
                            cwd=_ROOT,
                            stdout=output,
                            stderr=subprocess.STDOUT,
                        )
                    )
            _wait(processes, timeout_s)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        codes = [process.returncode for process in processes]
        tails = "\n".join(f"--- rank {i}\n{log.read_text()[-4000:]}" for i, log in enumerate(logs))
        assert codes == [0] * num_ranks, f"{target} ended with {codes}\n{tails}"
        return json.loads(result.read_text())


def free_port() -> int:
    """Return a TCP port nobody listens on, from below those the kernel gives to connections.

    Ranks listen on it only later, when one of the kernel's may be taken by another connection.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def _environment(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(_ROOT),
        "PYTHONWARNINGS": "ignore",
    }


def _wait(processes: list[subprocess.Popen[bytes]], timeout_s: float) -> None:
    """Wait for all to end, or for the first failure, after which the others would hang."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if None not in codes or any(code not in (None, 0) for code in codes):
            return
        time.sleep(0.05)


def _main() -> None:
    target, argument, result = sys.argv[1:]
    module, function = target.split(":")
    work = getattr(importlib.import_module(module), function)
    gc.freeze()  # what is imported stays: collecting cycles need not look at it
    value = work(json.loads(argument))
    if os.environ["RANK"] == "0":
        Path(result).write_text(json.dumps(value))


if __name__ == "__main__":
    _main()
