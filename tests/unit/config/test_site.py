"""Site files: what a cluster says, and what the run says instead."""

from pathlib import Path

import pytest

from megatron_rl.config import load_config
from megatron_rl.config.site import add_site
from megatron_rl.errors import ConfigError

SITES = Path(__file__).parents[3] / "launchers/slurm/sites"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site.toml"


def merged(site: Path, launch: dict) -> dict:
    return add_site({"num_steps": 1, "launch": {"site": str(site), **launch}})["launch"]


def test_the_run_wins_over_its_site(site: Path):
    site.write_text('partition = "gpu"\ngpus_per_node = 4\n')
    assert merged(site, {"partition": "debug"}) == {
        "site": str(site),
        "partition": "debug",
        "gpus_per_node": 4,
    }


def test_tables_are_merged_key_by_key_and_lists_joined(site: Path):
    site.write_text('modules = ["gcc"]\n[env]\nA = "1"\nB = "2"\n[container]\nmounts = ["/a:/a"]\n')
    launch = merged(
        site,
        {"modules": ["cuda"], "env": {"B": "3"}, "container": {"mounts": ["/b:/b"]}},
    )
    assert launch["modules"] == ["gcc", "cuda"]
    assert launch["env"] == {"A": "1", "B": "3"}
    assert launch["container"] == {"mounts": ["/a:/a", "/b:/b"]}


def test_without_a_site_nothing_changes():
    data = {"launch": {"nodes": 2}}
    assert add_site(data) is data
    assert add_site({"num_steps": 1}) == {"num_steps": 1}


def test_an_unknown_key_is_refused_with_the_valid_ones(site: Path):
    site.write_text('particion = "gpu"\n')
    with pytest.raises(ConfigError, match=r"site.toml: unknown key particion; .*, partition,"):
        merged(site, {})


def test_a_site_cannot_name_a_site(site: Path):
    site.write_text('site = "other.toml"\n')
    with pytest.raises(ConfigError, match="unknown key site"):
        merged(site, {})


def test_a_missing_or_broken_file_is_named(site: Path):
    with pytest.raises(ConfigError, match=r"launch.site \(.*site.toml\) cannot be read: No such"):
        merged(site, {})
    site.write_text("partition = \n")
    with pytest.raises(ConfigError, match=r"site.toml: not valid TOML"):
        merged(site, {})


@pytest.mark.parametrize("path", sorted(SITES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_site_file_of_the_repository_makes_a_configuration(path: Path, tmp_path: Path):
    run = tmp_path / "run.toml"
    run.write_text(
        f'run_dir = "r"\nnum_steps = 1\n[model]\npath = "m"\n[data]\ntrain = "t"\n'
        f'[launch]\nsite = "{path}"\n'
    )
    launch = load_config(run).launch
    assert launch.env["NCCL_SOCKET_IFNAME"]
    assert load_config(run, ["launch.gpus_per_node=2"]).launch.gpus_per_node == 2
