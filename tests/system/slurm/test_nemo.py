"""A run submitted through nemo-run: the same job, followed to its end, its failure told."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster import Cluster, placement_in
from tiny_run import HANGS_AFTER_S, REPOSITORY, wait_for, write_config

from megatron_rl.run_dir import RunDir, read_jsonl

LAUNCH_PYTHON = REPOSITORY / ".venv-launch/bin/python"
QUICK = ("launch.preflight=false", "evaluation.every=0")

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not LAUNCH_PYTHON.exists(), reason="no .venv-launch; make launch-env"),
]


def start(
    slurm: Cluster,
    config: Path,
    *settings: str,
    options: tuple[str, ...] = (),
    python: Path = LAUNCH_PYTHON,
) -> "subprocess.Popen[str]":
    """Start submit.py with nemo-run, for nodes that compute on their CPUs."""
    own = ("launch.gpus_per_node=0", f"launch.python={REPOSITORY}/.venv/bin/python")
    overrides = [word for setting in (*own, *settings) for word in ("--set", setting)]
    return subprocess.Popen(
        [
            *(python, REPOSITORY / "launchers/slurm/submit.py", config, "--with-nemo-run"),
            *("--time", "20", *options, *overrides),
        ],
        env=slurm.environment
        | {"OMP_NUM_THREADS": "1", "NEMORUN_HOME": str(config.parent / "nemo-home")},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Wait for its end; return exit code, output and complaints."""
    try:
        output, complaints = process.communicate(timeout=HANGS_AFTER_S)
    finally:
        process.kill()
    return process.returncode, output, complaints


def steps_of(run_dir: RunDir) -> list[int]:
    return [record["step"] for record in read_jsonl(run_dir.metrics)]


def job_of(output: str) -> str:
    found = re.search(r"^job (\d+): log", output, re.MULTILINE)
    assert found is not None, output
    return found[1]


def test_a_run_on_two_nodes_whose_time_is_up_goes_on_and_is_followed_to_its_end(
    slurm, inputs, tmp_path
):
    config = write_config(inputs, tmp_path / "run", sft=False)
    run_dir = RunDir(tmp_path / "run")
    # The generated script looks for signals once a second; the run must not be over by then.
    process = start(slurm, config, "num_steps=20", *QUICK, options=("--nodes", "2"))
    wait_for(lambda: steps_of(run_dir))
    (job,) = slurm.run("squeue", "-ho", "%A").split()
    slurm.run("scancel", "--batch", "--signal=USR1", job)
    code, output, complaints = finish(process)
    assert job_of(output) == job
    log = run_dir.root / f"logs/slurm-{job}.log"
    assert code == 0, output + complaints + log.read_text()
    assert str(log) in output
    assert "COMPLETED" in output
    placed = [row[:2] for row in placement_in(log.read_text())[:3]]
    assert placed == [["learn", "n1"], ["serve_0", "n2"], ["rollout", "n2"]]
    assert "it queues itself again" in log.read_text()
    assert steps_of(run_dir) == list(range(1, 21))
    assert (run_dir.attempt_logs(job, 1) / "learn_0.log").exists()
    assert list(slurm.processes(str(tmp_path)).values()) == []


def test_a_job_that_fails_is_told_by_the_exit_code(slurm, inputs, tmp_path):
    config = write_config(inputs, tmp_path / "run", sft=False)
    code, output, complaints = finish(start(slurm, config, f"data.train={tmp_path}/missing.jsonl"))
    log = tmp_path / f"run/logs/slurm-{job_of(output)}.log"
    assert "missing.jsonl" in log.read_text()
    assert code == 2, output + complaints  # the job's own: its data are wrong
    assert "failed with exit code 2" in output


def test_what_slurm_refuses_is_told_in_a_line(slurm, inputs, tmp_path):
    config = write_config(inputs, tmp_path / "run", sft=False)
    code, _, complaints = finish(start(slurm, config, "launch.partition='nowhere'"))
    assert code == 1
    assert "invalid partition specified: nowhere" in complaints
    assert "Traceback" not in complaints


def test_a_dry_run_prints_plan_and_script_and_submits_nothing(slurm, inputs, tmp_path):
    config = write_config(inputs, tmp_path / "run", sft=False)
    before = slurm.run("squeue", "-hao", "%A")
    settings = ("launch.qos='high'", "launch.sbatch={mail-type='END'}", "launch.modules=['cuda']")
    process = start(slurm, config, *settings, options=("--nodes", "2", "--dry-run"))
    code, output, complaints = finish(process)
    assert code == 0, complaints
    assert re.search(r"serve_0 +n2 ", output)
    flags = set(re.findall(r"^#SBATCH --(.+)$", output, re.MULTILINE))
    assert {"nodes=2", "time=20", "exclusive", "signal=B:USR1@300"} <= flags
    assert {"qos=high", "mail-type=END", f"comment=megatron_rl:{tmp_path}/run"} <= flags
    assert "\nmodule load cuda\n" in output
    assert f"-m megatron_rl job {config}" in output
    assert slurm.run("squeue", "-hao", "%A") == before
    assert not list((tmp_path / "nemo-home").rglob("*.sh"))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (("--set", "launch.placement.heterogeneous=true"), "launch.placement.heterogeneous"),
        (("--chain", "2"), "--chain"),
    ],
)
def test_what_nemo_run_cannot_do_is_refused(slurm, inputs, tmp_path, options, key):
    config = write_config(inputs, tmp_path / "run", sft=False)
    code, _, complaints = finish(start(slurm, config, options=("--nodes", "2", *options)))
    assert (code, key in complaints) == (2, True)


def test_without_nemo_run_it_says_how_to_get_it(slurm, inputs, tmp_path):
    config = write_config(inputs, tmp_path / "run", sft=False)
    process = start(slurm, config, options=("--dry-run",), python=Path(sys.executable))
    code, _, complaints = finish(process)
    assert code == 2
    assert "pip install 'megatron-rl[launch]'" in complaints
