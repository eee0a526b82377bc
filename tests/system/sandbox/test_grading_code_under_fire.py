"""Workers, sandboxes, compilers and solutions are killed at random; no verdict changes."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from megatron_rl.judge import fork_server
from megatron_rl.sandbox import supervisor
from megatron_rl.sandbox.client import BACKENDS, open_sandbox
from megatron_rl.sandbox.jobs import SandboxUnavailable

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
]

ROOT = Path(__file__).parents[3]
NUM_LINES = 108
KINDS = ("compiler", "solution", "supervisor", "worker")
MAX_KILLS = 4  # of a kind
SUMS = [{"input": f"{i} {i + 1}\n", "output": f"{2 * i + 1}\n"} for i in range(2)]
CPP = "#include <bits/stdc++.h>\nint main() {{ long a, b; std::cin >> a >> b; std::cout << {}; }}"
PYTHON = "import time\na, b = map(int, input().split())\ntime.sleep(0.05)\nprint({})"
# Right, right, wrong, and wrong by a message of the compiler or the interpreter.
SUM_OF = ("a + b", "b + a", "a - b - 7", "a + missing")
CONFIG = """
[judge]
num_workers = 2
max_retries = 20  # killing goes on while they are repeated
[judge.code]
sandbox = "{backend}"
cache_dir = "{cache}"
wall_factor = 30.0
"""


def lines() -> list[dict[str, Any]]:
    """Return responses of all kinds; one in nine is C++, which nobody else has."""
    found: list[dict[str, Any]] = []
    for i in range(NUM_LINES):
        expression = SUM_OF[i % 4]
        if i % 9 == 1:
            text = f"\\boxed{{{i + i % 2}}}"
            found.append({"id": i, "gold": str(i + 1), "response": f"<think>so</think>{text}"})
            continue
        language, template = ("cpp", CPP) if i % 9 == 0 else ("python", PYTHON)
        source = template.format(expression) + (f" // {i}" if language == "cpp" else f" # {i}")
        response = f"<think>so</think>\n```{language}\n{source}\n```"
        code = {"kind": "code", "language": language, "tests": SUMS}
        found.append({"id": i, **code, "response": response})
    return found


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that the sandbox's user may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o711)
        path = Path(name)
        (path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines())))
        yield path


@pytest.fixture(scope="module")
def expected(folder) -> list[dict[str, Any]]:
    """Return the verdicts when nobody is killed."""
    program = start(folder, "auto", folder / "cache")
    _, errors = program.communicate(timeout=240)
    assert program.returncode == 0, errors
    verdicts = read(folder / "auto.jsonl")
    for i, verdict in enumerate(verdicts):
        assert verdict["correct"] is (i % 2 == 1 if i % 9 == 1 else i % 4 < 2), verdict
    return verdicts


def start(folder: Path, backend: str, cache: Path) -> "subprocess.Popen[str]":
    config = folder / f"{backend}.toml"
    config.write_text(CONFIG.format(backend=backend, cache=cache))
    command = ["verify", folder / "lines.jsonl", "--out", folder / f"{backend}.jsonl"]
    return subprocess.Popen(
        [sys.executable, "-m", "megatron_rl", *map(str, command), "--config", str(config)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read(path: Path) -> list[dict[str, Any]]:
    """Return the verdicts without what differs from one time to the next."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        assert record.pop("seconds") >= 0
    return records


def targets(root: int) -> dict[str, list[int]]:
    """Return the processes below a program that grades, by what they are."""
    children: dict[int, list[int]] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            name, _, rest = (entry / "stat").read_text().rpartition(")")
            children.setdefault(int(rest.split()[1]), []).append(int(entry.name))
            names[int(entry.name)] = name.partition("(")[2]
    found: dict[str, list[int]] = {}

    def add(pid: int, kind: str) -> None:
        found.setdefault(kind, []).append(pid)
        for child in children.get(pid, []):
            add(child, "compiler" if names[child] in ("cc1plus", "as", "ld") else kind)

    for server in children.get(root, []):
        # Besides, before anything is graded, there is the sandbox that tries itself.
        for worker in children.get(server, []) if runs(server, fork_server) else []:
            found.setdefault("worker", []).append(worker)
            for below in children.get(worker, []):
                if runs(below, supervisor):
                    found.setdefault("supervisor", []).append(below)
                    for program in children.get(below, []):
                        add(program, "solution")
    return found


def runs(pid: int, module: ModuleType) -> bool:
    try:
        return module.__name__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize("backend", BACKENDS)
def test_killing_at_random_changes_no_verdict(backend, folder, expected):
    try:
        open_sandbox(backend).close()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    cache = folder / f"cache-{backend}"
    cache.mkdir(mode=0o711)
    # Its header, and none of the programs that are compiled already.
    shutil.copytree(folder / "cache" / "headers", cache / "headers")
    program = start(folder, backend, cache)
    errors: list[str] = []
    drain = threading.Thread(target=lambda: errors.append(program.communicate()[1]))
    drain.start()
    dice, killed = random.Random(1), Counter[str]()
    try:
        while drain.is_alive():
            found = targets(program.pid)
            time.sleep(0.02)
            if kinds := [kind for kind in KINDS if kind in found and killed[kind] < MAX_KILLS]:
                # What has been killed least; compilers and solutions do not live long.
                kind = min(kinds, key=lambda kind: killed[kind])
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    os.kill(dice.choice(found[kind]), signal.SIGKILL)
                    killed[kind] += 1
                    # Something has to be finished between one and the next.
                    time.sleep(dice.uniform(0.2, 1.5))
    finally:
        program.terminate()
        drain.join()
    assert program.returncode == 0, errors
    assert min(killed[kind] for kind in KINDS) >= 2, killed
    assert read(folder / f"{backend}.jsonl") == expected
