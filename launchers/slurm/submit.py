#!/usr/bin/env python3
"""Submit a run: python launchers/slurm/submit.py run.toml --nodes 8 --time 04:00:00 [--dry-run]."""

import argparse
import importlib
import sys

from megatron_rl.cli import exit_code_of
from megatron_rl.cli.arguments import add_config, add_nodes, positive


def main() -> int:
    """Parse the command line and submit."""
    parser = argparse.ArgumentParser(description="Submit a run to Slurm.")
    add_config(parser)
    add_nodes(parser)
    parser.add_argument("--time", help="limit of one attempt, instead of launch.time")
    parser.add_argument(
        "--chain", type=positive, default=1, metavar="N", help="N jobs, one after the other"
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
