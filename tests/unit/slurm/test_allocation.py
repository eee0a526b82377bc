"""Nodes of a job, read from Slurm's environment variables."""

from pathlib import Path

import pytest

from megatron_rl.errors import ConfigError, SlurmError
from megatron_rl.slurm.allocation import expand_cpus, read_job


@pytest.fixture
def fake_scontrol(tmp_path: Path, monkeypatch):
    """Put a program of that name first in PATH, which prints and ends as told."""

    def write(output: str, *, code: int = 0) -> None:
        program = tmp_path / "scontrol"
        program.write_text(f"#!/bin/sh\nprintf '{output}'\nexit {code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    return write


@pytest.mark.parametrize(
    ("counts", "expected"),
    [("8", [8]), ("8(x3)", [8, 8, 8]), ("8(x2),4", [8, 8, 4]), ("1,2(x2),16", [1, 2, 2, 16])],
)
def test_cpus_of_every_node_are_expanded(counts, expected):
    assert expand_cpus(counts) == expected


def test_outside_a_job_it_says_how_to_submit_one():
    with pytest.raises(ConfigError, match=r"SLURM_JOB_ID is not set.*sbatch launchers/slurm/train"):
        read_job({}, gpus_per_node=0)


@pytest.mark.parametrize("there", [{}, {"SLURM_GPUS_ON_NODE": "4"}])
def test_a_job_with_fewer_gpus_than_planned_is_refused(there):
    environment = {"SLURM_JOB_ID": "7", **there}
    with pytest.raises(ConfigError, match=r"launch.gpus_per_node is 8.*--gpus-per-node=8"):
        read_job(environment, gpus_per_node=8)


def test_a_heterogeneous_job_of_other_components_is_refused():
    environment = {"SLURM_JOB_ID": "7", "SLURM_HET_SIZE": "2"}
    with pytest.raises(ConfigError, match=r"2 components; it needs one each for learner, generat"):
        read_job(environment, gpus_per_node=0)


def test_an_ordinary_job_has_its_nodes_in_slurms_order(fake_scontrol):
    fake_scontrol("n2\nn5\n")
    environment = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n[2,5]",
        "SLURM_JOB_CPUS_PER_NODE": "8,4",
        "SLURM_RESTART_COUNT": "3",
    }
    job = read_job(environment, gpus_per_node=0)
    assert [(node.name, node.cpus, node.het_group) for node in job.nodes] == [
        ("n2", 8, None),
        ("n5", 4, None),
    ]
    assert (job.id, job.restarts) == ("7", 3)


def test_the_last_component_of_a_heterogeneous_job_has_no_gpus(fake_scontrol):
    fake_scontrol("n1\n")
    components = {
        f"{key}_HET_GROUP_{group}": value
        for group in range(3)
        for key, value in (("SLURM_JOB_NODELIST", "n1"), ("SLURM_JOB_CPUS_PER_NODE", "8"))
    }
    environment = {"SLURM_JOB_ID": "7", "SLURM_HET_SIZE": "3", "SLURM_GPUS_ON_NODE": "4"}
    job = read_job(environment | components, gpus_per_node=4)
    assert [(node.het_group, node.gpus) for node in job.nodes] == [(0, 4), (1, 4), (2, 0)]


def test_a_list_of_nodes_that_slurm_cannot_read_is_an_error_of_slurm(fake_scontrol):
    fake_scontrol("", code=1)
    environment = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[", "SLURM_JOB_CPUS_PER_NODE": "8"}
    with pytest.raises(SlurmError, match="scontrol show hostnames 'n\\['"):
        read_job(environment, gpus_per_node=0)
