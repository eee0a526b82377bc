"""Attacks on the compiler, the Python that solutions find, and what a judge leaves behind."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_rl.code_judging import CodeLimits, make_code_verifier
from megatron_rl.code_judging.build_folders import BuildFolders
from megatron_rl.config import CodeConfig
from megatron_rl.errors import DataError, VerifierError
from megatron_rl.sandbox.client import BACKENDS
from megatron_rl.sandbox.jobs import SandboxUnavailable
from megatron_rl.types import Problem, Verdict

pytestmark = pytest.mark.system

SUM = [{"input": f"{a} {a + 1}\n", "output": f"{2 * a + 1}\n"} for a in range(3)]

needs_cpp = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


def limits(**changes) -> CodeLimits:
    generous = {"test_s": 1.0, "wall_factor": 30.0}
    return CodeLimits(**{**CodeConfig().model_dump(mode="json"), **generous, **changes})


@pytest.fixture(scope="module", params=BACKENDS)
def verify(request):
    try:
        verifier = make_code_verifier(limits(sandbox=request.param))
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    with verifier:
        yield verifier


def judged(verify, language: str, source: str, tests=SUM, **extra) -> Verdict:
    problem = Problem(
        id="sum",
        text="",
        answer="",
        kind="code",
        extra={"language": language, "tests": tests, **extra},
    )
    return verify(problem, f"Here:\n```{language}\n{source}\n```")


@needs_cpp
@pytest.mark.parametrize(
    "source",
    [
        '#include "/etc/passwd"\nint main() {}',
        '#include "/proc/self/environ"\nint main() {}',
        '#include "/dev/stdin"\nint main() { broken }',
        '#include "main.cpp"',
        'asm(".incbin \\"/etc/passwd\\"");\nint main() {}',
        'asm(".include \\"/etc/passwd\\"");\nint main() {}',
        '#include "/dev/zero"\nint main() {}',
        "template <int N> struct T { T<N + 1> t; }; T<0> t; int main() {}",
        "int a[1 << 28] = {1}; int main() { return a[5]; }",
        '#pragma GCC plugin "/tmp/evil.so"\nint main() { return 1; }',
        "#define A(x) x x x x x x x x\n"
        "int main() { int s = 0; A(A(A(A(A(A(A(A(s++;)))))))) return 1; }",
    ],
)
def test_attacks_on_the_compiler_are_wrong_answers_that_tell_nothing(verify, source):
    verdict = judged(verify, "cpp", source)
    assert not verdict.correct
    assert "root:" not in verdict.reason
    assert "PATH=" not in verdict.reason


def test_ordinary_python_works_inside(verify):
    source = """
import bisect, collections, dataclasses, fractions, functools, heapq, itertools, math, random, re
import sys, threading, array, decimal, string, typing
from __main__ import __name__ as name

@dataclasses.dataclass
class Point:
    x: int

def main():
    sys.setrecursionlimit(10**6)
    deep = lambda n: 0 if n == 0 else 1 + deep(n - 1)
    assert deep(20000) == 20000 and name == "__main__" and Point(1).x == 1
    print(sum(map(int, open(0).read().split())))

threading.stack_size(1 << 27)
thread = threading.Thread(target=main)
thread.start()
thread.join()
quit()
"""
    assert judged(verify, "python", source).correct, judged(verify, "python", source)
    for reading in ("sys.stdin.buffer.read()", "open('/dev/stdin').read()", "os.read(0, 99)"):
        source = f"import os, sys\nprint(sum(map(int, {reading}.split())))"
        assert judged(verify, "python", source).correct, reading


def test_a_malformed_problem_is_an_error_and_no_verdict(verify):
    with pytest.raises(DataError):
        judged(verify, "python", "print(1)", [{"input": "1"}])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_judge_that_is_killed_leaves_no_process_and_no_folder(backend, tmp_path):
    mark = f"mark{os.getpid()}{backend}"
    script = f"""
import sys
from megatron_rl.code_judging import *
from megatron_rl.types import Problem
verify = make_code_verifier(CodeLimits(**{dataclass_of(limits(sandbox=backend))!r}))
extra = {{"language": "python", "function": "{mark}", "tests": [{{"args": [], "expected": 1}}]}}
problem = Problem(id="a", text="", answer="", kind="code", extra=extra)
print("ready", flush=True)
verify(problem, "```python\\nimport time\\ntime.sleep(100)\\n```")
"""
    environment = {**os.environ, "TMPDIR": str(reachable(tmp_path))}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as judge:
        assert judge.stdout is not None
        if not judge.stdout.readline():
            pytest.skip(f"no {backend} here")
        wait_until(lambda: processes_with(mark) != [])
        judge.kill()
    wait_until(lambda: processes_with(mark) == [])
    cache = next(tmp_path.iterdir())
    assert len(list((cache / "work").iterdir())) == 1
    BuildFolders(str(cache), uid=None, cache_mb=1).close()
    assert list((cache / "work").iterdir()) == []


def test_kept_programs_are_bounded_and_the_unused_go_first(tmp_path):
    folders = BuildFolders(str(tmp_path / "cache"), uid=None, cache_mb=1)
    built = tmp_path / "built"
    built.write_bytes(b"x" * (400 << 10))
    for age, key in enumerate(("a", "b")):
        folders.keep(key, built)
        os.utime(folders.cache / "programs" / key, (age, age))
    assert folders.fetch("a") is not None  # used again just now
    folders.keep("c", built)
    assert [folders.fetch(key) is not None for key in ("a", "b", "c")] == [True, False, True]
    folders.close()


def test_a_link_in_place_of_a_program_is_not_followed(tmp_path):
    folders = BuildFolders(str(tmp_path / "cache"), uid=None, cache_mb=1)
    link = tmp_path / "built"
    link.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        folders.keep("a", link)
    folders.close()


def test_a_cache_folder_that_others_can_write_is_refused(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(VerifierError, match="only this user can write"):
        BuildFolders(str(shared), uid=None, cache_mb=1)


def dataclass_of(settings: CodeLimits) -> dict[str, object]:
    return {name: getattr(settings, name) for name in CodeLimits.__slots__}


def reachable(folder: Path) -> Path:
    """Open a folder and those above it for the sandbox's user."""
    for place in (folder, *folder.parents):
        if place == Path("/tmp") or place.stat().st_mode & 0o001:
            break
        place.chmod(place.stat().st_mode | 0o011)
    return folder


def processes_with(mark: str) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        try:
            arguments = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        # The judge's own command contains the script; only a program's has the mark by itself.
        if mark.encode() in arguments:
            found.append(int(entry))
    return found


def wait_until(condition, timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "never happened"
        time.sleep(0.02)
