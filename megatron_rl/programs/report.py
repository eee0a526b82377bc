"""``megatron-rl report``: write summary.json and report.html of a run folder."""

import argparse

from megatron_rl.config import RunConfig
from megatron_rl.programs.builders.run_report import write_run_report
from megatron_rl.run_dir import RunDir


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Write summary.json and report.html of a run folder; exit code 0."""
    write_run_report(config)
    print(RunDir(config.run_dir).report)
    return 0
