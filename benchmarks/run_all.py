"""Every benchmark in turn, each in a process of its own, so that none inherits another's state.

    python benchmarks/run_all.py [--quick]

Ratios are meant to be read within one table; absolute numbers need a quiet machine.
"""

import os
import subprocess
import sys
from pathlib import Path

from table import parser_of

SCRIPTS = (
    "packing",
    "data_start",
    "logprobs",
    "conversion",
    "learner",
    "checkpoint",
    "generation",
    "weight_update",
    "shard_update",
    "reshard_scale",
    "sandbox",
    "verifiers",
    "judge",
)


def main() -> int:
    """Run all; return 1 when one of them failed."""
    options = parser_of(__doc__).parse_args()
    arguments = ["--output", str(options.output), *(["--quick"] if options.quick else [])]
    failed = []
    for name in SCRIPTS:
        script = Path(__file__).with_name(f"{name}.py")
        # Third-party notices of what a CPU machine lacks would break up the tables.
        environment = os.environ | {"PYTHONWARNINGS": "ignore"}
        if subprocess.run([sys.executable, script, *arguments], env=environment).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
