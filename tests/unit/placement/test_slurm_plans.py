"""Whole plans equal their golden files; ``slurm_cases.py`` beside this file writes them anew."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_rl.errors import ConfigError
from megatron_rl.placement.batch_script import batch_script, job_name, run_folder_in
from megatron_rl.placement.cluster import planned_nodes
from tests.unit.placement.slurm_cases import GOLDEN, ROOT, cases, golden_files, plan_text, run_of

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


@pytest.mark.parametrize("folder", ["/my runs/a 'b'", "/my runs/$HOME", '/x "y"/z'])
def test_a_folder_with_spaces_and_quotes_is_one_word_of_its_line(folder):
    config = run_of(run_dir=folder, launch={"job_name": "my job"})
    options = [
        shlex.split(line.removeprefix("#SBATCH "))
        for line in batch_script(config, ["true"]).splitlines()
        if line.startswith("#SBATCH")
    ]
    assert all(len(words) == 1 for words in options)
    words = [word for (word,) in options]
    assert f"--output={folder}/logs/slurm-%j.log" in words
    assert "--job-name=my job" in words
    (comment,) = (word for word in words if word.startswith("--comment="))
    assert run_folder_in(comment.removeprefix("--comment=")) == Path(folder)


def test_runs_of_one_name_in_two_folders_are_not_one_chain():
    names = {job_name(run_of(run_dir=folder)) for folder in ("/a/one", "/b/one", "/a/one")}
    assert len(names) == 2
    assert all(name.startswith("one-") for name in names)
    assert job_name(run_of(launch={"job_name": "mine"})) == "mine"


def test_gpus_are_asked_for_as_the_cluster_calls_them():
    config = run_of(
        launch={"nodes": 2, "gpus_per_node": 4, "gpu_gres": "gpu:a100"},
        learner={"num_processes": 4},
    )
    assert "#SBATCH --gres=gpu:a100:4\n" in batch_script(config, ["true"])
    text = plan_text(config, cpus=64)
    assert "--gres=gpu:a100:4\n" in text  # of the learner's step
    assert "--gres=gpu:a100:1\n" in text  # of a server's
    assert "--gpus-per-node" not in text


def test_lines_of_the_site_run_before_unset_variables_are_an_error():
    script = batch_script(run_of(launch={"setup": ["source site.sh"]}), ["true"]).splitlines()
    assert script.index("source site.sh") < script.index("set -u")
    assert "set -euo pipefail" not in script


def test_images_are_shared_only_where_it_is_asked_for():
    container = {"runtime": "pyxis", "learner_image": "/l.sqsh", "generator_image": "/s.sqsh"}
    alone = run_of(launch={"nodes": 2, "container": container}, learner={"num_processes": 8})
    assert "--container-name" not in plan_text(alone, cpus=64)
    shared = container | {"unpack_once": True}
    text = plan_text(
        run_of(launch={"nodes": 2, "container": shared}, learner={"num_processes": 8}), cpus=64
    )
    assert "--container-name=megatron_rl_7_learn:no_exec\n" in text
    assert "--container-name=megatron_rl_7_serve:no_exec\n" in text


def test_the_launchers_variables_win_over_those_of_an_image():
    launch = {"container": {"runtime": "pyxis", "learner_image": "/l.sqsh"}, "env": {"A": "1"}}
    assert "--container-env=A\n" in plan_text(run_of(launch=launch), cpus=64)


@pytest.mark.parametrize("name", ["one_cpu_node", "heterogeneous", "site_modules"])
def test_what_a_dry_run_prints_holds_the_script_of_the_golden_file(name, tmp_path):
    """The command as users call it, on the same settings from a file."""
    config, _ = cases()[name]
    settings = config.model_dump(mode="json", exclude_none=True)
    settings["model"]["path"] = str(ROOT / "tests/released/Mistral-Small-24B")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(settings))
    command = [sys.executable, ROOT / "launchers/slurm/submit.py", path, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    golden = (GOLDEN / f"{name}.txt").read_text()
    script = golden.partition("# batch script\n")[2].partition("\n# steps")[0]
    expected = script.replace("/shared/run.toml --set num_steps=5", str(path))
    assert expected in done.stdout
    table = golden.partition("# planned\n")[2].partition("\n\n")[0]
    assert table in done.stdout
    assert "\n# sbatch --parsable\n" in done.stdout


def test_a_dry_run_of_a_chain_shows_what_its_links_wait_for(tmp_path):
    config, _ = cases()["one_cpu_node"]
    settings = config.model_dump(mode="json", exclude_none=True)
    settings["model"]["path"] = str(ROOT / "tests/released/Mistral-Small-24B")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(settings))
    options = ["--dry-run", "--chain", "3"]
    command = [sys.executable, ROOT / "launchers/slurm/submit.py", path, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "# 3 x sbatch --parsable --dependency=singleton\n" in done.stdout, done.stderr
