"""What a code verifier shares, keeps and refuses to do, with the real compiler and sandbox."""

import contextlib
import dataclasses
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_rl.code_judging import (
    CodeLimits,
    CodeVerifier,
    make_code_verifier,
    prepare_code_judging,
)
from megatron_rl.config import CodeConfig
from megatron_rl.errors import VerifierError
from megatron_rl.programs.builders.worker_verifiers import make_verifier
from megatron_rl.sandbox import supervisor
from megatron_rl.sandbox.client import BACKENDS, open_sandbox
from megatron_rl.sandbox.describe import describe_sandbox
from megatron_rl.sandbox.jobs import SandboxUnavailable
from megatron_rl.types import Problem, Response, Verdict

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
]

SUPERVISOR = supervisor.__name__.encode()
SUMS = [{"input": f"{i} {i + 1}\n", "output": f"{2 * i + 1}\n"} for i in range(10)]

CPP_SUM = "#include <bits/stdc++.h>\nint main() { long a, b; std::cin >> a >> b; std::cout << %s; }"
PYTHON_SUM = "a, b = map(int, input().split())\nprint(%s)"
# Right for the first half of the tests, in which a < 5.
CPP_HALF, PYTHON_HALF = "(a < 5 ? a + b : 0)", "a + b if a < 5 else 0"


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's are not; holds one header for all."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        yield Path(folder, "cache")


@pytest.fixture(scope="module")
def limits(cache) -> CodeLimits:
    """The configuration's own, but quick to be exceeded, on a busy machine as well."""
    # By the clock there is plenty, because a busy machine must not fail a test.
    config = CodeConfig(test_s=1.0, wall_factor=60.0, cache_dir=cache)
    return CodeLimits(**config.model_dump(mode="json"))


@pytest.fixture(scope="module", params=BACKENDS)
def verify(request, limits) -> Iterator[CodeVerifier]:
    try:
        verifier = make_code_verifier(dataclasses.replace(limits, sandbox=request.param))
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    with verifier:
        yield verifier


@pytest.fixture(scope="module")
def verify_all(limits) -> Iterator[CodeVerifier]:
    with make_code_verifier(dataclasses.replace(limits, run_all=True)) as verifier:
        yield verifier


def problem(language: str, tests: list = SUMS, **extra: object) -> Problem:
    record = {"language": language, "tests": tests, **extra}
    return Problem(id="sum", text="Add.", answer="", kind="code", extra=record)


def response(language: str, source: str) -> str:
    return f"Here:\n```{language}\n{source}\n```\n"


def judge(verify: CodeVerifier, language: str, source: str, **extra: object) -> Verdict:
    return verify(problem(language, **extra), response(language, source))


def test_a_sleeping_solution_runs_out_of_time_by_the_clock(limits):
    short = dataclasses.replace(limits, test_s=0.5, wall_factor=4.0)
    with make_code_verifier(short) as verify:
        verdict = judge(verify, "python", "import time\ntime.sleep(60)")
    assert "time limit: more than 2 s by the clock" in verdict.reason


def test_the_stack_of_a_cpp_program_is_as_large_as_its_memory(verify):
    deep = "int f(int n) { volatile char x[64]; x[0] = n; return n ? f(n - 1) + x[0] * 0 + 1 : 0; }"
    source = f'#include <cstdio>\n{deep}\nint main() {{ printf("%d", f(500000)); }}'
    assert judge(verify, "cpp", source, tests=[{"input": "", "output": "500000"}]).correct


def test_running_all_tests_gives_the_fraction_that_passed(verify_all):
    for language, source in (("cpp", CPP_SUM % CPP_HALF), ("python", PYTHON_SUM % PYTHON_HALF)):
        verdict = judge(verify_all, language, source)
        assert not verdict.correct
        assert verdict.score == 0.5  # tests 1 to 5 of 10
        assert "test 6 of 10" in verdict.reason
    assert judge(verify_all, "python", PYTHON_SUM % "a + b").score == 1.0
    assert judge(verify_all, "cpp", "int main() {").score == 0.0


def test_an_equal_source_is_compiled_once_for_all_of_a_group(cache, limits):
    # A program that was built again would be another file.
    source = CPP_SUM % "b + a"
    before = set((cache / "programs").iterdir()) if (cache / "programs").exists() else set()
    with make_code_verifier(limits) as first, make_code_verifier(limits) as second:
        assert judge(first, "cpp", source).correct
        (kept,) = set((cache / "programs").iterdir()) - before
        built = kept.stat().st_ino
        assert judge(second, "cpp", source).correct
        assert set((cache / "programs").iterdir()) - before == {kept}
        assert kept.stat().st_ino == built


def test_the_memory_of_a_judge_is_not_that_of_its_solutions(limits):
    bounds = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, bounds[1]))
    try:
        with make_code_verifier(dataclasses.replace(limits, memory_mb=1000)) as verify:
            source = "import resource\nprint(resource.getrlimit(resource.RLIMIT_DATA)[0] >> 20)"
            twice = [{"input": "", "output": "2000"}]
            assert judge(verify, "python", source, tests=twice).correct
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, bounds)


def test_a_full_cache_drops_what_is_old_and_goes_on(cache, limits):
    with make_code_verifier(dataclasses.replace(limits, cache_mb=1)) as verify:
        for i in range(3):
            assert judge(verify, "cpp", CPP_SUM % f"a + b + {i} * 0").correct


def test_nothing_stays_behind_but_the_cache(cache, limits):
    with make_code_verifier(limits) as verify:
        judge(verify, "python", PYTHON_SUM % "a + b")
        assert len(list((cache / "work").iterdir())) >= 1
    before = set((cache / "work").iterdir())
    with make_code_verifier(limits):
        pass
    assert set((cache / "work").iterdir()) == before


def test_a_sandbox_that_dies_is_an_error_and_never_a_wrong_answer(limits):
    with make_code_verifier(limits) as verify:
        assert judge(verify, "python", PYTHON_SUM % "a + b").correct
        os.kill(verify._sandbox._process.pid, signal.SIGKILL)
        for language, source in (("python", PYTHON_SUM % "a - b"), ("cpp", CPP_SUM % "a - b - 7")):
            with pytest.raises(VerifierError, match="the sandbox's own process ended"):
                judge(verify, language, source)


def test_a_sandbox_that_died_is_replaced_for_the_next_response(limits):
    code = {name: getattr(limits, name) for name in CodeLimits.__slots__}
    verify = make_verifier({"language": False, "code": code, "own": {}})
    answer = response("python", PYTHON_SUM % "a + b")
    asked, right = problem("python"), Response(thoughts="Easy.", answer=answer, fault=None)
    others = supervisors_of(os.getpid())
    assert verify(asked, right).correct
    (victim,) = set(supervisors_of(os.getpid())) - set(others)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(VerifierError, match="the sandbox's own process ended"):
        verify(asked, right)
    assert verify(asked, right).correct


def supervisors_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            is_child = int(stat.read_text().rpartition(")")[2].split()[1]) == pid
            if is_child and SUPERVISOR in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return found


def test_a_bubblewrap_that_contains_nothing_fails_its_self_test(monkeypatch, tmp_path):
    # A program of that name that ignores every option and runs the rest as it is.
    fake = tmp_path / "bwrap"
    fake.write_text(
        '#!/bin/sh\nwhile [ "$1" != --json-status-fd ]; do shift; done\nfd=$2\nshift 2\n'
        '"$@"\ncode=$?\nprintf \'{"exit-code": %d}\\n\' $code >&$fd\nexit $code\n'
    )
    fake.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SandboxUnavailable, match="bubblewrap: "):
        open_sandbox("bubblewrap")


def test_a_cache_that_the_sandbox_s_user_cannot_reach_is_refused(limits, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("an ordinary user runs solutions as itself")
    tmp_path.chmod(0o700)
    with pytest.raises(VerifierError, match=r"cannot reach .*judge\.code\.cache_dir"):
        make_code_verifier(dataclasses.replace(limits, cache_dir=str(tmp_path / "cache")))


def test_what_judging_needs_is_tried_before_a_run(limits):
    assert prepare_code_judging(limits, needs_cpp=True) in BACKENDS
    assert describe_sandbox().startswith(BACKENDS)
