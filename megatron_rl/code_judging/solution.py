"""Runnable solutions: from the text of a solution to the sandbox jobs that run it."""

import errno
import hashlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.code_judging.build_folders import BuildFolders
from megatron_rl.code_judging.compiler import FLAGS, Compiler
from megatron_rl.code_judging.limits import CodeLimits
from megatron_rl.code_judging.python_runner import python_command
from megatron_rl.errors import VerifierError
from megatron_rl.sandbox.interpreter import Interpreter, system_libraries
from megatron_rl.sandbox.jobs import Job, Limits, Outcome

_MB = 1 << 20
_PYTHON_STACK_MB = 64
_PROGRAM_BYTES = 64 * _MB
_MESSAGE_BYTES = 64 << 10
_FULL_DISK_BYTES = 64 * _MB
_SHOWN_LINES = 3
_KILLS = (signal.strsignal(signal.SIGKILL), signal.strsignal(signal.SIGTERM))
_LINKER_KILLED = f"collect2: fatal error: ld terminated with signal {signal.SIGKILL:d}"
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Runnable:
    """A solution that is ready to run."""

    argv: tuple[str, ...]
    readable: tuple[str, ...]
    folder: str
    stack_mb: int

    def job(self, stdin: str, limits: CodeLimits) -> Job:
        """Return the job of one test."""
        return Job(
            argv=self.argv,
            readable=self.readable,
            # Solutions read stdin and print: without a writable folder they cannot fill the disk.
            writable=None,
            folder=self.folder,
            stdin=stdin.encode(errors="replace"),
            limits=Limits(
                cpu_s=limits.test_s,
                wall_s=limits.wall_factor * limits.test_s,
                memory_mb=limits.memory_mb,
                stack_mb=self.stack_mb,
                output_bytes=limits.output_mb * _MB,
                file_bytes=limits.output_mb * _MB,
                may_fork=False,
            ),
        )


class CompileError(Exception):
    """The source is at fault; the message says how."""


def python_solution(
    source: str,
    function: str | None,
    interpreter: Interpreter,
    folders: BuildFolders,
    limits: CodeLimits,
) -> Runnable:
    """Return a Python solution, ready to run."""
    path = folders.write_source("main.py", source)
    return Runnable(
        argv=tuple(python_command(interpreter.path, str(path), function)),
        readable=(*interpreter.readable, str(folders.program)),
        folder=str(folders.program),
        stack_mb=min(_PYTHON_STACK_MB, limits.memory_mb),  # also of every thread
    )


def cpp_solution(
    source: str,
    compiler: Compiler,
    header_folder: Path,
    folders: BuildFolders,
    limits: CodeLimits,
    run: Callable[[Job], Outcome],
) -> Runnable:
    """Return a C++ solution, compiled in the sandbox or kept from an equal source.

    Raises:
        CompileError: the source does not compile within the limits.
        VerifierError: the sandbox or the disk failed.
    """
    folders.write_source("main.cpp", source)
    identity = "\0".join((compiler.path, compiler.version, *FLAGS, *compiler.run_flags, source))
    key = hashlib.sha256(identity.encode(errors="replace")).hexdigest()
    if (failure := folders.failure(key)) is not None:
        raise CompileError(failure)
    program = folders.fetch(key)
    if program is None:
        _compile(key, compiler, header_folder, folders, limits, run)
        program = folders.fetch(key)
        if program is None:
            raise VerifierError("a compiled program was dropped at once: raise judge.code.cache_mb")
    return Runnable(
        argv=(str(program),),
        readable=(*system_libraries(), *_own_libraries(compiler), str(folders.program)),
        folder=str(folders.program),
        stack_mb=limits.memory_mb,
    )


def _compile(
    key: str,
    compiler: Compiler,
    header_folder: Path,
    folders: BuildFolders,
    limits: CodeLimits,
    run: Callable[[Job], Outcome],
) -> None:
    output = folders.empty_output()
    built = output / "main"
    driver = folders.link_compiler(compiler.path)
    flags = (*FLAGS, *compiler.run_flags, "-I", str(header_folder))
    outcome = run(
        Job(
            argv=(str(driver), *flags, "-o", str(built), "main.cpp"),
            readable=(*compiler.readable, str(header_folder), str(folders.program)),
            writable=str(output),
            folder=str(folders.program),
            stdin=b"",
            limits=Limits(
                cpu_s=limits.compile_s,
                wall_s=limits.wall_factor * limits.compile_s,
                memory_mb=limits.compile_memory_mb,
                stack_mb=64,
                output_bytes=_MESSAGE_BYTES,
                file_bytes=_PROGRAM_BYTES,
                may_fork=True,  # the compiler is several programs
            ),
        )
    )
    if outcome.is_success and built.exists():
        folders.keep(key, built)
        return
    if folders.free_bytes() < _FULL_DISK_BYTES:
        raise VerifierError(
            f"the disk of {folders.folder} is full; a solution could not be compiled"
        )
    if (fault := _find_outside_fault(driver.name, outcome)) is not None:
        raise VerifierError(f"a solution could not be compiled: {fault}")
    failure = _describe(outcome, limits).replace(driver.name, Path(compiler.path).name)
    # A busy machine may cause a time-out; only a compiler's message repeats for certain.
    if outcome.ending == "exited":
        folders.keep_failure(key, failure)
    raise CompileError(failure)


def _describe(outcome: Outcome, limits: CodeLimits) -> str:
    if outcome.ending in ("time", "wall"):
        return f"compile error: more than {limits.compile_s:g} s"
    if outcome.ending == "memory":
        return f"compile error: more than {limits.compile_memory_mb} MiB"
    lines = outcome.stderr.decode(errors="replace").splitlines()
    first = next((place for place, line in enumerate(lines) if "error" in line), 0)
    shown = "; ".join(line.strip() for line in lines[first : first + _SHOWN_LINES])
    return f"compile error: {shown[:_SHOWN_CHARACTERS]}"


def _find_outside_fault(driver: str, outcome: Outcome) -> str | None:
    """Return the fault outside the source that the compiler's driver reports, None if none.

    Messages of the driver begin with its name. Messages of the linker begin with a name that a
    source could write as well; a source would gain a second attempt by that, and no verdict.
    """
    lines = outcome.stderr.decode(errors="replace").splitlines()
    said = [line for line in lines if line.startswith(f"{driver}: ")]
    if any(os.strerror(errno.EAGAIN) in line for line in said):
        return "the compiler could not start its own programs: too many processes"
    # An assembler that fails may end before it has read all input; it prints a message then.
    has_failed = any("Assembler messages:" in line or "Fatal error:" in line for line in lines)
    causes = _KILLS if has_failed else (*_KILLS, os.strerror(errno.EPIPE))
    if any(f"{cause} signal terminated program" in line for line in said for cause in causes):
        return "a program of the compiler was killed from outside"
    if any(line.startswith(_LINKER_KILLED) for line in lines):
        return "the linker was killed from outside"
    return None


def _own_libraries(compiler: Compiler) -> tuple[str, ...]:
    return tuple(flag.removeprefix("-Wl,-rpath,") for flag in compiler.run_flags)
