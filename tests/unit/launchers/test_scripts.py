"""The batch scripts: short, clean for shellcheck, and asking for what they need."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = [
    *sorted((ROOT / "launchers/slurm").glob("*.sbatch")),
    ROOT / "tests/golden/slurm/step.sh",
]
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
MAX_LINES = 80


@every_script
def test_a_script_has_at_most_80_lines_of_at_most_100_columns(script: Path):
    lines = script.read_text().splitlines()
    assert len(lines) < MAX_LINES
    assert max(map(len, lines)) <= 100


@every_script
def test_shellcheck_finds_nothing(script: Path):
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck on this machine")
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("train", ["run.toml", "a.b=1", "c=x y"], "job run.toml --set a.b=1 --set c=x y"),
        ("train", ["run.toml"], "job run.toml"),
        ("sft", ["run.toml", "seed=2"], "job run.toml --only sft --set seed=2"),
        ("evaluate", ["run.toml", "--model", "hf"], "evaluate run.toml --model hf"),
        ("gpu_check", ["--only", "nodes"], "gpu-check --only nodes"),
        ("ablate", ["x.toml", "a.b=1"], "ablate x.toml --start 0 --set a.b=1"),
    ],
)
def test_a_script_runs_the_command_it_is_for(name, arguments, expected):
    script = ROOT / f"launchers/slurm/{name}.sbatch"
    done = subprocess.run(
        ["bash", script, *arguments], env={"MEGATRON_RL": "echo"}, capture_output=True, text=True
    )
    assert done.stdout == f"{expected}\n", done.stderr


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({"SLURM_ARRAY_TASK_ID": "4"}, "--task 4"), ({"START": "2"}, "--start 2")],
)
def test_a_task_of_an_array_is_a_run_of_the_ablation(variables, expected):
    script = ROOT / "launchers/slurm/ablate.sbatch"
    environment = {"MEGATRON_RL": "echo", **variables}
    done = subprocess.run(
        ["bash", script, "x.toml"], env=environment, capture_output=True, text=True
    )
    assert done.stdout == f"ablate x.toml {expected}\n", done.stderr


@pytest.mark.parametrize(
    ("direction", "tool"),
    [("to-megatron", "convert_hf_to_megatron"), ("to-hf", "convert_megatron_to_hf")],
)
def test_a_conversion_runs_its_tool_with_the_cpus_of_the_job(direction, tool):
    script = ROOT / "launchers/slurm/convert.sbatch"
    done = subprocess.run(
        ["bash", script, direction, "in", "out", "--verify"],
        env={"MEGATRON_RL_PYTHON": "echo", "SLURM_CPUS_PER_TASK": "4"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"tools/{tool}.py in out --verify --threads 4\n", done.stderr
    assert (ROOT / f"tools/{tool}.py").exists()


def run_long_context(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    script = ROOT / "launchers/slurm/long_context.sbatch"
    return subprocess.run(
        ["bash", script, *arguments],
        cwd=ROOT,
        env={"MEGATRON_RL_PYTHON": "echo", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(("task", "length"), [("0", 4096), ("3", 32768), ("5", 131072)])
@pytest.mark.parametrize(
    "ranks", [{"SLURM_GPUS_ON_NODE": "8"}, {"SLURM_GPUS_ON_NODE": "4", "MEGATRON_RL_RANKS": "8"}]
)
def test_a_task_of_the_array_measures_its_context_with_a_rank_for_each_gpu(task, length, ranks):
    arguments = ("--model", "m", "--precision", "bf16", "--tp", "4", "--cp", "2", "--recompute")
    done = run_long_context(*arguments, SLURM_ARRAY_TASK_ID=task, **ranks)
    assert done.stdout == (
        "-m torch.distributed.run --standalone --nproc-per-node 8 "
        f"examples/long_context/measure.py --length {length} {' '.join(arguments)}\n"
    )


def test_contexts_without_an_array_say_how_to_submit_them():
    done = run_long_context()
    assert done.returncode == 2 and "submit with --array=0-5" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["to-onnx", "a", "b"], ["to-hf", "a"]])
def test_a_conversion_without_its_arguments_says_how_to_call_it(arguments):
    script = ROOT / "launchers/slurm/convert.sbatch"
    done = subprocess.run(["bash", script, *arguments], capture_output=True, text=True)
    assert done.returncode != 0
    assert "usage: sbatch launchers/slurm/convert.sbatch" in done.stderr


@pytest.mark.parametrize("name", ["train", "sft", "evaluate", "gpu_check", "ablate"])
def test_a_file_to_source_comes_first(name, tmp_path):
    (tmp_path / "setup").write_text("export MEGATRON_RL=echo\n")
    done = subprocess.run(
        ["bash", ROOT / f"launchers/slurm/{name}.sbatch", "run.toml"],
        env={"MEGATRON_RL_SETUP": str(tmp_path / "setup")},
        capture_output=True,
        text=True,
    )
    assert "run.toml" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["train", "sft", "evaluate", "gpu_check", "ablate"])
def test_from_another_directory_it_says_where_to_submit(name, tmp_path):
    script = ROOT / f"launchers/slurm/{name}.sbatch"
    done = subprocess.run(
        ["bash", script, "run.toml"], env={}, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "submit from the repository's root, or set MEGATRON_RL" in done.stderr


@pytest.mark.parametrize("name", ["train", "sft", "evaluate", "gpu_check", "ablate"])
def test_a_file_to_source_may_use_what_is_not_set(name, tmp_path):
    (tmp_path / "setup").write_text('[ -n "$NOT_SET" ] || export MEGATRON_RL=echo\n')
    done = subprocess.run(
        ["bash", ROOT / f"launchers/slurm/{name}.sbatch", "run.toml"],
        env={"MEGATRON_RL_SETUP": str(tmp_path / "setup"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert "run.toml" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["train", "sft", "ablate"])
def test_a_limit_announced_while_a_script_starts_is_not_its_end(name, tmp_path):
    (tmp_path / "setup").write_text("kill -USR1 $$\nexport MEGATRON_RL=echo\n")
    done = subprocess.run(
        ["bash", ROOT / f"launchers/slurm/{name}.sbatch", "run.toml"],
        env={"MEGATRON_RL_SETUP": str(tmp_path / "setup")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
