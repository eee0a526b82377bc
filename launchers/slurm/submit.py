#!/usr/bin/env python3
"""Submit a run: python launchers/slurm/submit.py run.toml --nodes 8 --time 04:00:00 [--dry-run]."""

import argparse
import importlib
import sys
from pathlib import Path

from megatron_rl.cli import exit_code_of


def main() -> int:
    """Parse the command line and submit."""
    parser = argparse.ArgumentParser(description="Submit a run to Slurm.")
    parser.add_argument("config", type=Path, help="run configuration (TOML)")
    parser.add_argument("--nodes", type=int, help="instead of launch.nodes")
    parser.add_argument("--gpus-per-node", type=int, help="instead of launch.gpus_per_node")
    parser.add_argument("--time", help="limit of one attempt, instead of launch.time")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one setting, null removes it; may be repeated",
    )
    parser.add_argument(
        "--chain", type=int, default=1, metavar="N", help="N jobs, one after the other"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan and the batch script, submit nothing"
    )
    parser.add_argument(
        "--with-nemo-run", action="store_true", help="as an experiment of NVIDIA's nemo-run"
    )
    options = parser.parse_args()
    name = "nemo" if options.with_nemo_run else "submit"
    program = importlib.import_module(f"megatron_rl.programs.{name}")
    return exit_code_of(lambda: program.main(options))


if __name__ == "__main__":
    sys.exit(main())
