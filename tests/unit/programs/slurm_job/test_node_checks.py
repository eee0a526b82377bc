"""Which steps look at the nodes of a job before anything is loaded, and which at once."""

from dataclasses import replace

import pytest

from megatron_rl.placement.node_facts import NodeCheck
from megatron_rl.placement.roles import Role, plan_roles
from megatron_rl.programs.slurm_job.preflight import batches, doctor_roles
from tests.unit.placement.slurm_cases import cases, nodes_of, run_of

CHECK = NodeCheck(
    head="n1:1", folder="/run/preflight", token="t", serving_python="p", kinds=(), is_called=True
)


def checks_of(config, *, cpus: int) -> list[Role]:
    nodes = nodes_of(config, cpus=cpus)
    return doctor_roles(config, nodes, plan_roles(config, nodes), CHECK)


def test_one_environment_is_looked_at_once_on_every_node():
    (check,) = checks_of(run_of(launch={"nodes": 3}, learner={"num_processes": 8}), cpus=64)
    assert (check.name, check.nodes, check.tasks) == ("doctor", ("n1", "n2", "n3"), 3)
    assert check.gpus_per_node == 8


def test_a_look_needs_no_file_and_does_not_end_with_another_nodes():
    (check,) = checks_of(run_of(), cpus=64)
    assert not check.reads_config
    assert not check.ends_together
    assert '"token": "t"' in check.options[0]


@pytest.mark.parametrize("name", cases())
def test_looks_that_run_at_once_never_meet_on_a_node_and_none_is_left_out(name):
    config, cpus = cases()[name]
    checks = checks_of(config, cpus=cpus)
    together = list(batches(checks))
    for batch in together:
        nodes = [node for check in batch for node in check.nodes]
        assert len(nodes) == len(set(nodes))
    assert sorted(check.name for batch in together for check in batch) == sorted(
        check.name for check in checks
    )


def test_components_of_a_heterogeneous_job_are_looked_at_at_once():
    config, cpus = cases()["heterogeneous"]
    checks = checks_of(config, cpus=cpus)
    assert len(checks) == 3
    assert [len(batch) for batch in batches(checks)] == [3]


def test_two_images_on_one_node_are_looked_at_one_after_the_other():
    (check,) = checks_of(run_of(), cpus=64)
    assert [len(batch) for batch in batches([check, replace(check, name="other")])] == [1, 1]
