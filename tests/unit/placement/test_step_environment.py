"""Environment of srun in a batch script, and the variables that steps get instead."""

import gzip
import re
from pathlib import Path

import pytest

from megatron_rl.placement.step_environment import inherited_by_steps

MANUAL = Path("/usr/share/man/man1/srun.1.gz")
# Not options of a step: which job and cluster this is, how srun talks, which network was given.
KEPT = {"SLURM_CONF", "SLURM_DEBUG", "SLURM_DEBUG_FLAGS", "SLURM_JOB_ID", "SLURM_NETWORK"}


@pytest.mark.parametrize(
    "name",
    [
        *("SLURM_NTASKS_PER_GPU", "SLURM_GPU_BIND", "SLURM_EXPORT_ENV", "SLURM_HINT"),
        *("SLURM_CPUS_PER_GPU", "SLURM_OVERLAP", "SLURM_NTASKS_PER_NODE", "SRUN_CPUS_PER_TASK"),
        "WORLD_SIZE",
    ],
)
def test_what_would_be_an_option_of_a_step_is_left_out(name):
    assert inherited_by_steps({name: "1", "PATH": "/bin"}) == {"PATH": "/bin"}


def test_what_says_which_job_this_is_stays():
    environment = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_CONF": "/c", "HOME": "/"}
    assert inherited_by_steps(environment) == environment


def test_every_input_variable_of_the_manual_is_known():
    if not MANUAL.exists():
        pytest.skip("no manual page of srun on this machine")
    text = gzip.decompress(MANUAL.read_bytes()).decode(errors="replace").replace("\\", "")
    section = text.partition('"INPUT ENVIRONMENT VARIABLES"')[2].partition('"OUTPUT ENV')[0]
    names = set(re.findall(r"^fB((?:SLURM|SRUN)_[A-Z_]+)fR", section, flags=re.MULTILINE))
    assert len(names) > 80
    assert inherited_by_steps(dict.fromkeys(names, "1")).keys() == names & KEPT
