"""An ablation as jobs of a real Slurm: the start, then an array whose tasks wait for it."""

import json
import subprocess
from pathlib import Path

import pytest
from cluster import Cluster
from conftest import Submitted
from tiny_run import REPOSITORY, run, write_config

from megatron_rl.run_dir import RunDir, read_jsonl

pytestmark = [pytest.mark.system, pytest.mark.slow]

SCRIPT = REPOSITORY / "launchers/slurm/ablate.sbatch"
VARIANTS = """
[[variants]]
name = "a"
[[variants]]
name = "b"
set = {algorithm.advantages = "none"}
"""


def submit(slurm: Cluster, definition: Path, *options: str) -> str:
    """Submit the script for nodes without GPUs; return the job's id."""
    program = {"MEGATRON_RL": f"{REPOSITORY}/.venv/bin/megatron-rl", "OMP_NUM_THREADS": "1"}
    settings = ("launch.gpus_per_node=0", f"launch.python={REPOSITORY}/.venv/bin/python")
    command = ["sbatch", "--parsable", "--time=60", "--nodes=1", *options]
    done = subprocess.run(
        [*command, str(SCRIPT), str(definition), *settings],
        env=slurm.environment | program,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_tasks_of_an_array_begin_when_the_start_is_trained(
    slurm: Cluster, inputs: Path, tmp_path: Path
):
    write_config(inputs, tmp_path / "base", sft=True)
    definition = tmp_path / "ablation.toml"
    definition.write_text(
        f'base = "base.toml"\nrun_dir = "{tmp_path}/runs"\nseeds = [1]\n{VARIANTS}'
    )
    start = submit(slurm, definition, f"--output={tmp_path}/start.log")
    array = submit(
        *(slurm, definition, "--array=0-1", f"--dependency=afterok:{start}"),
        f"--output={tmp_path}/task-%a.log",
    )
    folder = tmp_path / "runs"
    trained = Submitted(slurm, start, folder / "start/seed_1", tmp_path / "start.log")
    assert trained.end() == ("COMPLETED", 0), trained.output
    for task, name in enumerate(("a", "b")):
        run_dir = folder / name / "seed_1"
        one = Submitted(slurm, f"{array}_{task}", run_dir, tmp_path / f"task-{task}.log")
        assert one.end() == ("COMPLETED", 0), one.output
        steps = [record["step"] for record in read_jsonl(RunDir(run_dir).metrics)]
        assert steps == [1, 2, 3, 4]
        assert one.survivors() == []
    code, output = run("ablate", str(definition), "--report-only")
    assert code == 0, output
    summary = json.loads((folder / "summary.json").read_text())
    assert [variant["num_done"] for variant in summary["variants"]] == [1, 1]
