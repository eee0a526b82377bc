"""Code verifier: draws tests, runs a solution on them, says which test failed and how."""

import atexit
import functools
import logging
import signal
from typing import Self

from megatron_rl.code_judging.build_folders import BuildFolders
from megatron_rl.code_judging.compiler import Compiler, ensure_header, find_compiler
from megatron_rl.code_judging.limits import CodeLimits
from megatron_rl.code_judging.solution import (
    CompileError,
    Runnable,
    cpp_solution,
    python_solution,
)
from megatron_rl.errors import VerifierError
from megatron_rl.sandbox.client import Sandbox, open_sandbox
from megatron_rl.sandbox.jobs import Outcome
from megatron_rl.types import Problem, Verdict
from megatron_rl.verifiers.code import (
    CodeTask,
    CodeTest,
    draw_tests,
    find_first_code,
    find_output_fault,
    read_code_task,
)

_OUT_OF_MEMORY = (b"bad_alloc", b"MemoryError")
_SHOWN_CHARACTERS = 120
_TRIAL = "#include <bits/stdc++.h>\nint main() { std::cout << 6 * 7; }\n"

logger = logging.getLogger(__name__)


class CodeVerifier:
    """Judges responses to code problems, one at a time; holds a sandbox and a folder."""

    def __init__(self, limits: CodeLimits, sandbox: Sandbox) -> None:
        """Take over a sandbox; raise VerifierError if the build folders cannot be made."""
        self.backend = sandbox.backend
        self._limits = limits
        self._sandbox = sandbox
        self._folders = BuildFolders(limits.cache_dir, uid=sandbox.uid, cache_mb=limits.cache_mb)
        atexit.register(self.close)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __call__(self, problem: Problem, text: str) -> Verdict:
        """Return the verdict on the first code block of the answer ``text``.

        The response is correct if every test drawn passes. ``score`` is the fraction of tests that
        passed, None where the first failure ended the testing.

        Raises:
            DataError: the problem's tests are malformed.
            VerifierError: the sandbox, the compiler or the disk failed, not the solution.
        """
        task = read_code_task(problem, tolerance=self._limits.float_tolerance)
        block = find_first_code(text)
        if block is None:
            return _refused(None, "no code block that names its language", is_parsable=False)
        if block.language != task.language:
            reason = f"the code block is {block.language}, asked for was {task.language}"
            return _refused(block.source, reason, is_parsable=False)
        try:
            return self._judge(task, problem.id, block.source)
        except CompileError as error:
            score = 0.0 if self._limits.run_all else None
            return _refused(block.source, str(error), is_parsable=True, score=score)
        except OSError as error:
            raise VerifierError(f"a solution could not be run: {error}") from error

    def close(self) -> None:
        """End the sandbox and remove the folder."""
        atexit.unregister(self.close)
        self._sandbox.close()
        self._folders.close()

    def try_cpp(self) -> None:
        """Make the precompiled header and try the compiler; raise VerifierError if it fails."""
        try:
            runnable = self._cpp(_TRIAL)
        except CompileError as error:
            raise VerifierError(f"the C++ compiler does not work in the sandbox: {error}") from None
        outcome = self._sandbox.run(runnable.job("", self._limits))
        if outcome.stdout != b"42":
            raise VerifierError(f"compiled programs do not run in the sandbox: {outcome}")

    def _judge(self, task: CodeTask, problem_id: str, source: str) -> Verdict:
        if task.language == "cpp":
            runnable = self._cpp(source)
        else:
            python = self._sandbox.python
            runnable = python_solution(source, task.function, python, self._folders, self._limits)
        tests = draw_tests(task, problem_id, num_tests=self._limits.num_tests)
        reason, passed = "", 0
        for test in tests:
            fault = self._find_fault(task, test, runnable)
            passed += fault is None
            if fault is not None and not reason:
                reason = f"test {test.number} of {len(task.tests)}: {fault}"
            if fault is not None and not self._limits.run_all:
                return _refused(source, reason, is_parsable=True)
        return Verdict(
            format_ok=True,
            correct=passed == len(tests),
            answer=source,
            reason=reason,
            score=passed / len(tests),
        )

    def _find_fault(self, task: CodeTask, test: CodeTest, runnable: Runnable) -> str | None:
        # Only the input goes to the sandbox's process; the expected output stays in this one.
        outcome = self._sandbox.run(runnable.job(test.stdin, self._limits))
        fault = _describe(outcome, self._limits)
        if fault is not None:
            return fault
        difference = find_output_fault(task, test, outcome.stdout.decode(errors="replace"))
        return None if difference is None else f"wrong answer: {difference}"

    def _cpp(self, source: str) -> Runnable:
        compiler = _compiler()
        header = ensure_header(compiler, self._folders.cache)
        run = self._sandbox.run
        return cpp_solution(source, compiler, header, self._folders, self._limits, run)


def make_code_verifier(limits: CodeLimits) -> CodeVerifier:
    """Return a verifier under a sandbox that has passed its self-test; close it after use.

    Raises:
        SandboxUnavailable: this machine cannot contain untrusted code.
        VerifierError: the build folders cannot be made.
    """
    sandbox = open_sandbox(limits.sandbox)
    try:
        return CodeVerifier(limits, sandbox)
    except BaseException:
        sandbox.close()
        raise


def prepare_code_judging(limits: CodeLimits, *, needs_cpp: bool) -> str:
    """Try the sandbox and the compiler, make the precompiled header, and return the backend.

    A program that will judge code calls this first, so that a missing part is known at once and
    no verdict's deadline is spent on the precompiled header.

    Raises:
        VerifierError: the sandbox or the compiler is missing or fails; says which.
    """
    with make_code_verifier(limits) as verifier:
        if needs_cpp:
            verifier.try_cpp()
        return verifier.backend


@functools.cache
def _compiler() -> Compiler:
    return find_compiler()


def _refused(
    source: str | None, reason: str, *, is_parsable: bool, score: float | None = None
) -> Verdict:
    return Verdict(
        format_ok=True,
        correct=False,
        answer=source,
        reason=reason,
        is_parsable=is_parsable,
        score=score,
    )


def _describe(outcome: Outcome, limits: CodeLimits) -> str | None:
    """Return how a program failed, None if it succeeded."""
    if outcome.is_success:
        return None
    if outcome.ending == "time" or (outcome.ending, outcome.code) == ("killed", signal.SIGXCPU):
        return f"time limit: more than {limits.test_s:g} s of processor time"
    if outcome.ending == "wall":
        return f"time limit: more than {limits.wall_factor * limits.test_s:g} s by the clock"
    if outcome.ending == "output":
        return f"output limit: more than {limits.output_mb} MiB"
    if outcome.ending == "memory" or any(mark in outcome.stderr for mark in _OUT_OF_MEMORY):
        return f"memory limit: more than {limits.memory_mb} MiB"
    lines = outcome.stderr.decode(errors="replace").strip().splitlines()
    last = f": {lines[-1][:_SHOWN_CHARACTERS]}" if lines else ""
    if outcome.ending == "killed":
        return f"runtime error: {_signal_name(outcome.code)}{last}"
    return f"runtime error: exit code {outcome.code}{last}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
