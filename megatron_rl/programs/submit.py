"""Submit a run to Slurm: plan it, write its batch script, hand it to sbatch."""

import argparse
import shlex
import subprocess
from collections.abc import Sequence

from megatron_rl.config import RunConfig, load_config
from megatron_rl.errors import ConfigError, SlurmError
from megatron_rl.placement.batch_script import batch_script, log_pattern
from megatron_rl.programs.processes.disk_errors import disk_errors_named
from megatron_rl.programs.slurm_job.plan_text import describe_plan, job_command, overrides_of


def main(options: argparse.Namespace) -> int:
    """Plan, and unless it is a dry run submit; return 0.

    Raises:
        ConfigError, ModelError: the run cannot work, or does not fit on the nodes.
        SlurmError: sbatch refused it.
    """
    if options.chain < 1:
        raise ConfigError(f"--chain {options.chain}: a chain has at least one job")
    config = load_config(options.config, overrides_of(options))
    script = batch_script(config, job_command(config, options.config, overrides_of(options)))
    print(describe_plan(config))
    if options.dry_run:
        command = shlex.join(_sbatch_command(options.chain))
        print(f"\n# {options.chain} x {command}" if options.chain > 1 else f"\n# {command}")
        print(script, end="")
        return 0
    for job in submit(config, script, links=options.chain):
        print(f"\njob {job}: log {log_pattern(config.run_dir).replace('%j', job)}")
        print(f"status: megatron-rl status {config.run_dir}")
    return 0


def submit(config: RunConfig, script: str, *, links: int) -> list[str]:
    """Give the script to sbatch and return the ids of the jobs.

    Args:
        links: jobs of one name of which only one runs at a time, each going on where the one
            before it ended.
    """
    with disk_errors_named(config.run_dir):
        config.run_dir.joinpath("logs").mkdir(parents=True, exist_ok=True)
    return [_sbatch(script, _sbatch_command(links)) for _ in range(links)]


def _sbatch_command(links: int) -> list[str]:
    """Return the command of each link, which waits for all jobs of its name before it."""
    return ["sbatch", "--parsable", *(["--dependency=singleton"] if links > 1 else [])]


def _sbatch(script: str, command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, input=script, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise SlurmError("there is no sbatch here; run this on a login node") from error
    if done.returncode:
        raise SlurmError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip().partition(";")[0]
