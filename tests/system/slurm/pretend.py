"""Programs that only pretend, so that a job is about its steps and nothing has to be loaded."""

import sys
from collections.abc import Mapping
from pathlib import Path

FOREVER = "while :; do sleep 0.2; done"


def write_pretenders(folder: Path, programs: Mapping[str, str]) -> str:
    """Write an interpreter for ``launch.python``; return the setting.

    Args:
        programs: shell code by command of megatron-rl; a command that is not there runs for ever,
            doctor runs in earnest.
    """
    cases = "".join(f"{name}) {code} ;;\n" for name, code in programs.items())
    path = folder / "python"
    path.write_text(
        f'#!/bin/bash\ncase "$3" in\ndoctor) exec {sys.executable} "$@" ;;\n{cases}'
        f"*) {FOREVER} ;;\nesac\n"
    )
    path.chmod(0o755)
    return f"launch.python={path}"
