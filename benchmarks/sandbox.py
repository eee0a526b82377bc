"""The sandbox: what containing a test costs, and what the precompiled header saves.

    python benchmarks/sandbox.py [--quick]

The same small program, in C++ and in Python, reads some lines and prints sums: started bare, under
landlock and under bubblewrap, in turn, so that other load falls on all alike. Then the same source
is compiled without and with the precompiled header, in turn. Medians; goals: at most 15 ms over
bare under landlock, 25 ms under bubblewrap; the header 2.5 times as fast.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from table import Row, parser_of, show_and_keep

from megatron_rl.code_judging import CodeLimits
from megatron_rl.code_judging.compiler import FLAGS, Compiler, ensure_header, find_compiler
from megatron_rl.code_judging.python_runner import python_command
from megatron_rl.code_judging.solution import Runnable
from megatron_rl.config import CodeConfig
from megatron_rl.sandbox.client import BACKENDS, Sandbox, open_sandbox
from megatron_rl.sandbox.interpreter import system_libraries
from megatron_rl.sandbox.jobs import SandboxUnavailable

LANGUAGES = ("cpp", "python")
CPP = """#include <bits/stdc++.h>
int main() {
    std::map<std::string, long> sums;
    std::string name;
    for (long value; std::cin >> name >> value;) sums[name] += value;
    for (const auto& [key, sum] : sums) std::cout << key << ' ' << sum << '\\n';
}
"""
PYTHON = """import sys
sums = {}
for line in sys.stdin:
    name, value = line.split()
    sums[name] = sums[name] + int(value) if name in sums else int(value)
for name in sorted(sums):
    print(name, sums[name])
"""
STDIN = "a 1\nb 2\na 3\n"
STDOUT = b"a 4\nb 2\n"
MS = 1e3


def main() -> None:
    """Measure and show."""
    options = parser_of(__doc__).parse_args()
    limits = CodeLimits(**CodeConfig().model_dump(mode="json"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # the sandbox's user has to get at the programs
        compiler = find_compiler()
        cpp = folder / "main.cpp"
        cpp.write_text(CPP)
        (folder / "main.py").write_text(PYTHON)
        compile_bare(compiler, cpp, folder / "main", header=None)
        compiling = time_compiling(compiler, cpp, folder, rounds=3 if options.quick else 10)
        running = time_running(folder, limits, rounds=20 if options.quick else 200)
    output = options.output
    show_and_keep("sandbox", "One test of a small program", running, output=output)
    show_and_keep("sandbox_compiling", "Compiling a small source", compiling, output=output)


def time_running(folder: Path, limits: CodeLimits, *, rounds: int) -> list[Row]:
    """Start the programs bare and contained, in turn; the interpreter is the sandbox's."""
    with ExitStack() as stack:
        sandboxes = {}
        for backend in reversed(BACKENDS):
            try:
                sandboxes[backend] = stack.enter_context(open_sandbox(backend))
            except SandboxUnavailable as error:
                print(f"left out: {error}")
        rows = []
        for language in LANGUAGES:
            ways: dict[str, Callable[[], bytes]] = {}
            for backend, sandbox in sandboxes.items():
                runnable = runnable_in(sandbox, language, folder, limits)
                ways["bare"] = partial(run_bare, runnable)
                ways[backend] = partial(run_contained, sandbox, runnable, limits)
            rows += rows_of(language, time_in_turn(ways, STDOUT, rounds=rounds))
    return rows


def runnable_in(sandbox: Sandbox, language: str, folder: Path, limits: CodeLimits) -> Runnable:
    """Return the program of a language, as the verifier runs it."""
    python = sandbox.python
    command = python_command(python.path, str(folder / "main.py"), None)
    libraries = system_libraries() if language == "cpp" else python.readable
    return Runnable(
        argv=(str(folder / "main"),) if language == "cpp" else tuple(command),
        readable=(*libraries, str(folder)),
        folder=str(folder),
        stack_mb=limits.memory_mb if language == "cpp" else 64,
    )


def rows_of(language: str, times: Mapping[str, Sequence[float]]) -> list[Row]:
    """Return a row for each way to run a program."""
    bare_ms = MS * statistics.median(times["bare"])
    return [
        {
            "way": way,
            "language": language,
            "tests": len(seconds),
            "median ms": MS * statistics.median(seconds),
            "p90 ms": MS * statistics.quantiles(seconds, n=10)[-1],
            "over bare ms": MS * statistics.median(seconds) - bare_ms,
        }
        for way, seconds in times.items()
    ]


def time_compiling(compiler: Compiler, source: Path, folder: Path, *, rounds: int) -> list[Row]:
    """Compile without and with the header, in turn."""
    target = folder / "compiled"
    (folder / "cache" / "headers").mkdir(parents=True)
    started_s = time.monotonic()
    header = ensure_header(compiler, folder / "cache")
    header_s = time.monotonic() - started_s
    ways: dict[str, Callable[[], bytes]] = {
        "without": lambda: compile_bare(compiler, source, target, header=None),
        "with": lambda: compile_bare(compiler, source, target, header=header),
    }
    times = time_in_turn(ways, b"", rounds=rounds)
    plain_s = statistics.median(times["without"])
    return [
        {
            "header": way,
            "rounds": rounds,
            "median s": statistics.median(seconds),
            "times as fast": plain_s / statistics.median(seconds),
            "making the header s": header_s if way == "with" else 0.0,
        }
        for way, seconds in times.items()
    ]


def time_in_turn(
    ways: Mapping[str, Callable[[], bytes]], expected: bytes, *, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each way; the first round, which fills caches, is not counted."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, run in ways.items():
            started_s = time.perf_counter()
            result = run()
            if number:
                times[way].append(time.perf_counter() - started_s)
            assert result == expected, f"{way}: {result!r}"
    return times


def run_bare(runnable: Runnable) -> bytes:
    """Run the program as anybody would."""
    done = subprocess.run(runnable.argv, input=STDIN.encode(), capture_output=True, check=True)
    return done.stdout


def run_contained(sandbox: Sandbox, runnable: Runnable, limits: CodeLimits) -> bytes:
    """Run the program as a test of a solution."""
    return sandbox.run(runnable.job(STDIN, limits)).stdout


def compile_bare(compiler: Compiler, source: Path, target: Path, *, header: Path | None) -> bytes:
    """Compile without a sandbox."""
    include = [] if header is None else ["-I", os.fspath(header)]
    command = [compiler.path, *FLAGS, *include, "-o", os.fspath(target), os.fspath(source)]
    return subprocess.run(command, check=True, capture_output=True).stdout


if __name__ == "__main__":
    main()
