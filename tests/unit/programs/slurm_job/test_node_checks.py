"""Which steps look at the nodes of a job before anything is loaded, and which at once."""

from dataclasses import replace

import pytest

from megatron_rl.placement.node_facts import Look
from megatron_rl.placement.roles import Role, plan_roles
from megatron_rl.programs.slurm_job.preflight import doctor_roles, waves
from tests.unit.placement.slurm_cases import cases, nodes_of, run_of

LOOK = Look(
    head="n1:1", folder="/run/preflight", token="t", serving_python="p", kinds=(), is_called=True
)


def looks_of(config, *, cpus: int) -> list[Role]:
    nodes = nodes_of(config, cpus=cpus)
    return doctor_roles(config, nodes, plan_roles(config, nodes), LOOK)


def test_one_environment_is_looked_at_once_on_every_node():
    (look,) = looks_of(run_of(launch={"nodes": 3}, learner={"num_processes": 8}), cpus=64)
    assert (look.name, look.nodes, look.tasks) == ("doctor", ("n1", "n2", "n3"), 3)
    assert look.gpus_per_node == 8


def test_a_look_needs_no_file_and_does_not_end_with_another_nodes():
    (look,) = looks_of(run_of(), cpus=64)
    assert not look.reads_config
    assert not look.ends_together
    assert '"token": "t"' in look.options[0]


@pytest.mark.parametrize("name", cases())
def test_looks_that_run_at_once_never_meet_on_a_node_and_none_is_left_out(name):
    config, cpus = cases()[name]
    looks = looks_of(config, cpus=cpus)
    together = list(waves(looks))
    for wave in together:
        nodes = [node for look in wave for node in look.nodes]
        assert len(nodes) == len(set(nodes))
    assert sorted(look.name for wave in together for look in wave) == sorted(
        look.name for look in looks
    )


def test_components_of_a_heterogeneous_job_are_looked_at_at_once():
    config, cpus = cases()["heterogeneous"]
    looks = looks_of(config, cpus=cpus)
    assert len(looks) == 3
    assert [len(wave) for wave in waves(looks)] == [3]


def test_two_images_on_one_node_are_looked_at_one_after_the_other():
    (look,) = looks_of(run_of(), cpus=64)
    assert [len(wave) for wave in waves([look, replace(look, name="other")])] == [1, 1]
