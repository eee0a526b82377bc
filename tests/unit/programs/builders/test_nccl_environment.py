"""Learner and servers broadcast in one NCCL group: what NCCL is told, it is told on both sides."""

import os

import pytest

from megatron_rl.config import GeneratorsConfig, resolve
from megatron_rl.placement.gpu_environment import NCCL_DEFAULTS
from megatron_rl.placement.roles import Node, plan_roles
from megatron_rl.programs.builders.server import serving_environment
from megatron_rl.programs.processes.ranks import rank_environment
from megatron_rl.programs.slurm_job.record import JobRecord
from megatron_rl.programs.slurm_job.steps import JobSteps
from megatron_rl.run_dir import RunDir
from megatron_rl.slurm.allocation import Job

SHARED = ("NCCL_CUMEM_ENABLE", "NCCL_NVLS_ENABLE")
ON_A_GPU = GeneratorsConfig(sglang={"device": "cuda"})


def of_nccl(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name in SHARED}


def of_a_local_rank() -> dict[str, str]:
    """Return the environment of a rank that ``train`` starts."""
    return {**os.environ, **rank_environment(rank=0, size=1, port=1)}


def of_a_slurm_rank(tmp_path, launch_env: dict[str, str]) -> dict[str, str]:
    """Return the environment of the learner's step of a job."""
    nodes = (Node(name="n1", gpus=2, cpus=8),)
    config = resolve(
        {
            "run_dir": str(tmp_path),
            "num_steps": 1,
            "model": {"path": "model"},
            "data": {"train": "train.jsonl"},
            "launch": {"gpus_per_node": 2},
        }
    )
    job = Job(id="7", restarts=0, nodes=nodes)
    record = JobRecord(RunDir(config.run_dir), job, deadline=None)
    steps = JobSteps(config, job, record, environment=launch_env)
    return steps._environment_of(plan_roles(config, nodes)[0])


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in SHARED:
        monkeypatch.delenv(name, raising=False)


def test_both_sides_agree_when_the_user_says_nothing(tmp_path):
    expected = {"NCCL_CUMEM_ENABLE": "0", "NCCL_NVLS_ENABLE": "0"}
    assert dict(NCCL_DEFAULTS) == expected
    assert of_nccl(serving_environment(ON_A_GPU)) == expected
    assert of_nccl(of_a_local_rank()) == expected
    assert of_nccl(of_a_slurm_rank(tmp_path, {})) == expected


def test_the_users_own_value_wins_on_both_sides(tmp_path, monkeypatch):
    monkeypatch.setenv("NCCL_CUMEM_ENABLE", "1")
    expected = {"NCCL_CUMEM_ENABLE": "1", "NCCL_NVLS_ENABLE": "0"}
    assert of_nccl(serving_environment(ON_A_GPU)) == expected
    assert of_nccl(of_a_local_rank()) == expected
    assert of_nccl(of_a_slurm_rank(tmp_path, {})) == expected


def test_a_value_of_launch_env_wins_in_a_job(tmp_path):
    mine = {"NCCL_NVLS_ENABLE": "1"}
    assert of_nccl(of_a_slurm_rank(tmp_path, mine)) == {"NCCL_CUMEM_ENABLE": "0", **mine}


def test_a_server_on_the_cpu_is_told_nothing():
    assert of_nccl(serving_environment(GeneratorsConfig(sglang={"device": "cpu"}))) == {}
