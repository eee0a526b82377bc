"""Where the tasks of a step find each other: told to those that have to, and to nobody else."""

import pytest

from megatron_rl.config import resolve
from megatron_rl.placement.roles import Node, plan_roles
from megatron_rl.programs.slurm_job.record import JobRecord
from megatron_rl.programs.slurm_job.steps import JobSteps
from megatron_rl.run_dir import RunDir
from megatron_rl.slurm.allocation import Job


def rendezvous_of(tmp_path, **generators) -> dict[str, tuple[str, str] | None]:
    """Return, by role of a job of three nodes, the address its tasks are given."""
    nodes = tuple(Node(name=f"n{i}", gpus=0, cpus=8) for i in (1, 2, 3))
    data = {
        "run_dir": str(tmp_path),
        "num_steps": 1,
        "model": {"path": "model"},
        "data": {"train": "train.jsonl"},
        "launch": {"gpus_per_node": 0, "nodes": 3},
        "generators": generators,
    }
    config = resolve(data)
    job = Job(id="7", restarts=0, nodes=nodes)
    record = JobRecord(RunDir(config.run_dir), job, deadline=None)
    steps = JobSteps(config, job, record, environment={})
    told = {role.name: steps._environment_of(role) for role in plan_roles(config, nodes)}
    return {
        name: (variables["MASTER_ADDR"], variables["MASTER_PORT"])
        if "MASTER_ADDR" in variables
        else None
        for name, variables in told.items()
    }


def test_the_nodes_of_a_server_meet_at_its_first_one(tmp_path):
    told = rendezvous_of(tmp_path, tp=2, nodes_per_server=2)
    assert told["learn"][0] == "n1"
    assert told["serve_0"][0] == "n2"
    assert told["serve_0"][1] != told["learn"][1]
    assert told["rollout"] is None


@pytest.mark.parametrize("tp", [1, 2])
def test_a_server_of_one_node_meets_nobody(tmp_path, tp):
    assert rendezvous_of(tmp_path, tp=tp)["serve_0"] is None
