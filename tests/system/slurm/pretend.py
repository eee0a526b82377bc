"""Programs that only pretend, so that a job is about its steps and nothing has to be loaded."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

FOREVER = "while :; do sleep 0.2; done"
# Not in shell: one that starts with a signal ignored, as under a step's shell, never hears it.
_SAVES = """
import signal, sys, time
told = []
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda *_: told.append(time.monotonic()))
print("listens", flush=True)
while not told or time.monotonic() < told[0] + float(sys.argv[1]):
    time.sleep(0.1)
print("saved", flush=True)
sys.exit(75)
"""


def saves_when_told(seconds: float) -> str:
    """Return shell code of a learner that takes so long to save, and then ends as one does."""
    return f"exec {sys.executable} -c {shlex.quote(_SAVES)} {seconds}"


def write_pretenders(folder: Path, programs: Mapping[str, str]) -> str:
    """Write an interpreter for ``launch.python``; return the setting.

    Args:
        programs: shell code by command of megatron-rl; a command that is not there runs for ever,
            those of preflight run in earnest.
    """
    cases = "".join(f"{name}) {code} ;;\n" for name, code in programs.items())
    path = folder / "python"
    path.write_text(
        f'#!/bin/bash\ncase "$3" in\ncheck-node|all-reduce) exec {sys.executable} "$@" ;;\n{cases}'
        f"*) {FOREVER} ;;\nesac\n"
    )
    path.chmod(0o755)
    return f"launch.python={path}"
