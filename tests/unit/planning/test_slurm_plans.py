"""Whole plans equal their golden files; `python tests/unit/planning/slurm_cases.py` writes them."""

import pytest
from slurm_cases import GOLDEN, cases, golden_files, run_of

from megatron_rl.errors import ConfigError
from megatron_rl.planning.batch_script import batch_script
from megatron_rl.planning.cluster import planned_nodes

FILES = golden_files()


@pytest.mark.parametrize("name", FILES)
def test_a_plan_is_that_of_the_golden_file(name: str):
    assert FILES[name] == (GOLDEN / name).read_text()


def test_every_golden_file_has_its_case():
    assert {path.name for path in GOLDEN.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", ["site_modules", "site_pyxis"])
def test_a_site_file_changes_the_plan_where_it_says_so(name: str):
    script = FILES[f"{name}.txt"]
    partition = {"site_modules": "gpu", "site_pyxis": "batch"}[name]
    assert f"#SBATCH --partition={partition}\n" in script
    assert "module load own/1\n" in script  # the run's own module comes after the site's
    config, _ = cases()[name]
    assert config.launch.modules[-1] == "own/1"


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("nodes", "launch.nodes"),
        ("cpus-per-task", "launch.cpus_per_node"),
        ("partition", "launch.partition"),
        ("no-requeue", "launch.when_time_is_up"),
        ("output", "run_dir"),
    ],
)
def test_an_option_of_sbatch_with_a_key_of_its_own_is_refused_by_that_name(option, instead):
    config = run_of(launch={"sbatch": {option: 3}})
    with pytest.raises(ConfigError) as refusal:
        batch_script(config, ["true"])
    assert str(refusal.value) == f"launch.sbatch.{option} (3): set {instead} instead"


def test_other_options_of_sbatch_are_handed_on():
    config = run_of(launch={"sbatch": {"exclude": "n7", "nice": True, "wait": False}})
    lines = batch_script(config, ["true"]).splitlines()
    assert {"#SBATCH --exclude=n7", "#SBATCH --nice"} <= set(lines)
    assert not any("wait" in line for line in lines)


def test_every_component_of_a_heterogeneous_job_has_its_own_nodes_in_order():
    config, _ = cases()["heterogeneous"]
    nodes = planned_nodes(config)
    # One node of 8 learner ranks, two of two servers of 4 GPUs, one for rollout.
    assert [(node.het_group, node.gpus) for node in nodes] == [(0, 8), (1, 8), (1, 8), (2, 0)]
    assert [node.name for node in nodes] == ["n1", "n2", "n3", "n4"]


def test_a_heterogeneous_job_without_a_node_for_servers_says_how_many_it_needs():
    config = run_of(
        launch={"nodes": 2, "placement": {"heterogeneous": True}}, learner={"num_processes": 16}
    )
    with pytest.raises(ConfigError, match=r"launch.nodes \(2\) leaves no node.* raise .* to 3"):
        planned_nodes(config)


def test_a_heterogeneous_job_whose_numbers_disagree_is_refused():
    placement = {"heterogeneous": True, "learner_nodes": 1, "generator_nodes": 1}
    config = run_of(launch={"nodes": 4, "placement": placement}, learner={"num_processes": 8})
    with pytest.raises(ConfigError, match=r"launch.nodes \(4\) must be the 1 .* and the 1 "):
        planned_nodes(config)
