"""Submit a run to Slurm as an experiment of NVIDIA's nemo-run, and wait for its end."""

import argparse
import time

from megatron_rl.config import RunConfig, load_config
from megatron_rl.errors import ConfigError, SlurmError
from megatron_rl.programs.slurm_job.plan_text import (
    describe_plan,
    job_command,
    overrides_of,
    with_nodes,
)
from megatron_rl.slurm.control import job_facts

_POLL_S = 5.0
_MAX_SILENT_POLLS = 120
"""A controller that restarts does not answer for a while."""
_ENDED = frozenset(
    [
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE"),
        *("FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
    ]
)
_EXIT_FAILED = 1


def main(options: argparse.Namespace) -> int:
    """Plan, and unless it is a dry run submit and wait; return the job's own exit code.

    Raises:
        ConfigError, ModelError: the run cannot work, does not fit on the nodes, or asks for what
            nemo-run cannot do; nemo-run is not there.
        SlurmError: Slurm refused the job, or does not answer any more.
    """
    config = load_config(options.config, overrides_of(options))
    config = with_nodes(config, nodes=None, gpus_per_node=None)
    _refuse_what_it_cannot_do(config, links=options.chain)
    plan = describe_plan(config)
    try:
        from megatron_rl.programs.slurm_job import nemo_experiment
    except ImportError as error:
        raise ConfigError(
            f"--with-nemo-run needs nemo-run, which does not import here ({error}); it wants an "
            "environment of its own (make launch-env): pip install 'megatron-rl[launch]'"
        ) from error
    print(plan)
    command = job_command(config, options.config, overrides_of(options))
    if options.dry_run:
        print(f"\n{nemo_experiment.batch_script(config, command)}", end="")
        return 0
    submitted = nemo_experiment.submit(config, command)
    print(f"\njob {submitted.job}: log {submitted.log}")
    print(f"experiment {submitted.id} of nemo-run: its script's log {submitted.script_log}")
    print(f"status: megatron-rl status {config.run_dir}")
    print("waiting for its end; Ctrl-C leaves it running", flush=True)
    return _wait(submitted.job)


def _refuse_what_it_cannot_do(config: RunConfig, *, links: int) -> None:
    if config.launch.placement.heterogeneous:
        raise ConfigError(
            "launch.placement.heterogeneous: nemo-run starts a task of its own in every component, "
            "where this job starts its programs itself; submit without --with-nemo-run"
        )
    if links > 1:
        raise ConfigError(
            "--chain: nemo-run starts the next job only when the one before it succeeded; set "
            "launch.when_time_is_up = 'requeue', or submit without --with-nemo-run"
        )


def _wait(job: str) -> int:
    """Follow the job, through requeues, to its end; return 0 or the exit code of its failure."""
    state, silent_polls = "", 0
    while state not in _ENDED:
        try:
            facts = job_facts(job)
        except SlurmError:
            silent_polls += 1
            if silent_polls == _MAX_SILENT_POLLS:
                raise
        else:
            silent_polls = 0
            if facts["JobState"] != state:
                state = facts["JobState"]
                print(f"job {job}: {state}", flush=True)
        if state not in _ENDED:
            time.sleep(_POLL_S)
    code = int(facts["ExitCode"].partition(":")[0])
    if state == "COMPLETED":
        return code
    print(f"job {job} failed with exit code {code}", flush=True)
    return code or _EXIT_FAILED
