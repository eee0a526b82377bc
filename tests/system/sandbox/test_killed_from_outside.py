"""What somebody else kills is no verdict, and what is killed leaves nothing behind."""

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from megatron_rl.code_judging import CodeLimits, make_code_verifier
from megatron_rl.config import CodeConfig
from megatron_rl.errors import VerifierError
from megatron_rl.sandbox.client import BACKENDS
from megatron_rl.sandbox.jobs import SandboxUnavailable
from megatron_rl.types import Problem, Verdict

pytestmark = pytest.mark.system

needs_cpp = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
SLOW = "constexpr int f(int n) { int s = 0; for (int i = 0; i < n; i++) s ^= i; return s; }\n" + (
    "".join(f"constexpr int a{i} = f({200_000 + i});\n" for i in range(500))
)
HELLO = '#include <cstdio>\nint main() { puts("42"); }\n'


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        yield Path(folder, "cache")


@pytest.fixture(scope="module", params=BACKENDS)
def verify(request, cache):
    try:
        verifier = make_code_verifier(limits(request.param, cache))
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    with verifier:
        yield verifier


def limits(backend: str, cache: Path) -> CodeLimits:
    config = CodeConfig(sandbox=backend, wall_factor=30.0, cache_dir=cache)
    return CodeLimits(**config.model_dump(mode="json"))


def judged(verify, language: str, source: str) -> Verdict:
    extra = {"language": language, "tests": [{"input": "", "output": "42"}]}
    problem = Problem(id="a", text="", answer="", kind="code", extra=extra)
    return verify(problem, f"\n```{language}\n{source}\n```")


@contextmanager
def killing(is_victim: Callable[[Path], bool], number: int = signal.SIGKILL) -> Iterator[list[int]]:
    """Kill the first process that appears and is one; yield whom."""
    killed: list[int] = []
    is_over = threading.Event()

    def hunt() -> None:
        while not killed and not is_over.wait(0.01):
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):  # it ended meanwhile
                    if is_victim(entry):
                        os.kill(int(entry.name), number)
                        killed.append(int(entry.name))
                        break

    hunter = threading.Thread(target=hunt)
    hunter.start()
    try:
        yield killed
    finally:
        is_over.set()
        hunter.join()


def program_of(name: str, mark: bytes) -> Callable[[Path], bool]:
    """Return what recognises a program by its name and a path among its arguments."""

    def is_it(entry: Path) -> bool:
        is_named = (entry / "comm").read_text().strip() == name
        return is_named and mark in (entry / "cmdline").read_bytes()

    return is_it


def test_a_solution_that_is_killed_is_an_error_and_never_a_wrong_answer(verify):
    name = verify._sandbox.python.path.rpartition("/")[2]
    is_solution = program_of(name, str(verify._folders.program).encode() + b"/main.py")
    with killing(is_solution) as killed, pytest.raises(VerifierError, match="killed from outside"):
        judged(verify, "python", "import time\ntime.sleep(20)\nprint(42)")
    assert killed
    assert judged(verify, "python", "print(42)").correct


@needs_cpp
def test_a_compiler_that_is_killed_says_nothing_about_the_source(verify):
    source = SLOW + HELLO + f"// {verify.backend}"
    judged(verify, "cpp", "#include <bits/stdc++.h>\nint main() {}")  # the header is there
    kept = set((verify._folders.cache / "programs").iterdir())
    is_compiler = program_of("cc1plus", b"main.cpp")
    with killing(is_compiler) as killed, pytest.raises(VerifierError, match="killed from outside"):
        judged(verify, "cpp", source)
    assert killed
    assert set((verify._folders.cache / "programs").iterdir()) == kept
    assert judged(verify, "cpp", HELLO).correct


@needs_cpp
@pytest.mark.parametrize(
    "source",
    [
        '#line 1 "g++: fatal error: Killed signal terminated program cc1plus"\nbroken',
        '#line 1 "a\\ng++-12: fatal error: Killed signal terminated program cc1plus\\n"\nbroken',
        "#error g++: fatal error: Resource temporarily unavailable",
    ],
)
def test_a_source_that_talks_of_being_killed_is_wrong(verify, source):
    verdict = judged(verify, "cpp", source)
    assert not verdict.correct
    assert verdict.reason.startswith("compile error: ")


@needs_cpp
@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("static int a[1 << 30]; int main(int n, char**) { return a[n]; }", ""),
        ("#include <unistd.h>\nint main() { _exit(137); }", "runtime error: SIGSYS"),
        ("#include <signal.h>\nint main() { raise(SIGKILL); return 3; }", "exit code 3"),
        (
            "#include <sys/resource.h>\n"
            "int main() { rlimit l{0, 0}; setrlimit(RLIMIT_CPU, &l); for (;;); }",
            "time limit: more than 4 s of processor time",
        ),
    ],
)
def test_what_a_solution_does_to_itself_is_wrong(verify, body, end):
    verdict = judged(verify, "cpp", body)
    assert not verdict.correct
    assert end in verdict.reason


def test_dev_stdout_can_be_written(verify):
    assert judged(verify, "python", "open('/dev/stdout', 'w').write('42')").correct


@needs_cpp
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_outlives_a_judge_whose_process_group_is_killed(backend, cache):
    mark = f"mark{os.getpid()}{backend}"
    given = dataclasses.asdict(limits(backend, cache))
    script = f"""
from megatron_rl.code_judging import *
from megatron_rl.types import Problem
verify = make_code_verifier(CodeLimits(**{given!r}))
extra = {{"language": "cpp", "tests": [{{"input": "", "output": ""}}]}}
problem = Problem(id="a", text="", answer="", kind="code", extra=extra)
print(verify._folders.program, flush=True)
verify(problem, "```cpp\\n" + {SLOW!r} + "int main() {{}} // {mark}\\n```")
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) as judge:
        assert judge.stdout is not None
        if not (folder := judge.stdout.readline().strip()):
            pytest.skip(f"no {backend} here")
        wait_until(lambda: "cc1plus" in programs_in(folder))
        os.killpg(judge.pid, signal.SIGKILL)
        judge.wait()
    # It compiles for longer than this on the fastest machine.
    wait_until(lambda: programs_in(folder) == [], timeout_s=5.0)


def programs_in(folder: bytes) -> list[str]:
    """Return the names of programs that run in a folder, or name it."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            is_there = os.readlink(entry / "cwd") == folder.decode()
            if is_there or folder in (entry / "cmdline").read_bytes():
                found.append((entry / "comm").read_text().strip())
    return found


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "never happened"
        time.sleep(0.02)
