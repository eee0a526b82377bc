"""The demo learns as well on a cluster as on one machine: on three nodes, and as a het job."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import Submitted, sbatch
from tiny_run import REPOSITORY, SERVE_PYTHON

from megatron_rl.run_dir import RunDir, read_jsonl

LONGEST_S = 1500.0
NOISE = 0.08
"""Of a difference of two runs: each is measured with 400 samples (1.3 points of standard error at
93 %), and five local runs ended within 4.3 points of each other; three standard deviations."""

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(5000)]

CONFIG = REPOSITORY / "examples/demo/run.toml"


def pass_at_1(run_dir: Path) -> tuple[float, float]:
    """Return held-out pass@1 before and after RL."""
    found = [record["pass@1"] for record in read_jsonl(RunDir(run_dir).evaluations)]
    return found[0], found[-1]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Write the demo's data; return what makes the demo's configuration use it."""
    data = tmp_path_factory.mktemp("data")
    make = [sys.executable, REPOSITORY / "examples/demo/make_data.py", data]
    subprocess.run(make, check=True)
    return [
        f"model.path={data / 'model'}",
        f"data.train={data / 'train.jsonl'}",
        f"data.evaluation={data / 'evaluation.jsonl'}",
        f"sft.data={data / 'sft.jsonl'}",
        f"generators.python={SERVE_PYTHON}",
    ]


@pytest.fixture(scope="module")
def local(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole demo on this machine, as ``make demo`` does; return its folder."""
    run_dir = tmp_path_factory.mktemp("local") / "run"
    overrides = [word for each in (*settings, f"run_dir={run_dir}") for word in ("--set", each)]
    command = [sys.executable, "-m", "megatron_rl", "train", CONFIG, *overrides]
    subprocess.run(command, check=True, cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return run_dir


@pytest.fixture
def run_job(
    slurm: Cluster, settings: list[str], local: Path, tmp_path: Path
) -> Callable[..., Submitted]:
    """Run the RL phase of the demo as a job, from the cold start of the local run."""

    def run_demo(*changes: str, options: tuple[str, ...]) -> Submitted:
        run_dir = tmp_path / "run"
        shutil.copytree(local / "sft", run_dir / "sft")
        submitted = sbatch(
            *(slurm, CONFIG, run_dir),
            *(*settings, f"run_dir={run_dir}", *changes),
            log=tmp_path / "job.log",
            options=options,
        )
        assert submitted.end(within_s=LONGEST_S) == ("COMPLETED", 0), submitted.output
        assert submitted.survivors() == []
        return submitted

    return run_demo


def assert_as_good_as(run_dir: Path, local: Path) -> None:
    before, after = pass_at_1(run_dir)
    _, locally = pass_at_1(local)
    print(f"pass@1: {before:.3f} before, {after:.3f} after, {locally:.3f} locally")
    assert before < 0.5
    assert after >= 0.85
    assert abs(after - locally) <= NOISE


def test_on_three_nodes(run_job, local):
    submitted = run_job(
        *("learner.num_processes=2", "launch.placement.learner_nodes=2"),
        *("generators.num_servers=2", "launch.placement.generator_nodes=2"),
        options=("--nodes=3",),
    )
    for line in ("learn    n1,n2", "serve_0  n2", "serve_1  n3", "rollout  n3"):
        assert line in submitted.output
    assert_as_good_as(submitted.run_dir, local)


def test_as_a_heterogeneous_job(run_job, local):
    submitted = run_job(options=("--nodes=1", ":", "--nodes=1", ":", "--nodes=1"))
    for line in ("learn    n1", "serve_0  n2", "rollout  n3"):
        assert line in submitted.output
    assert_as_good_as(submitted.run_dir, local)
