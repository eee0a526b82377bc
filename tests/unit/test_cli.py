"""The command line: fast help, exit codes, and messages instead of tracebacks."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_rl import cli
from megatron_rl.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    MegatronRLError,
    ModelError,
)

ROOT = Path(__file__).parents[2]
CONFIG = """
run_dir = "runs/test"
num_steps = 3
[model]
path = "model"
[data]
train = "train.jsonl"
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def run_cli(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "megatron_rl", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_help_answers_at_once():
    durations_s = []
    for _ in range(5):
        start_s = time.perf_counter()
        assert run_cli("--help").returncode == 0
        durations_s.append(time.perf_counter() - start_s)
    assert min(durations_s) < 0.3


def test_help_imports_nothing_heavy():
    heavy = "{'pydantic', 'numpy', 'torch', 'transformers', 'aiohttp', 'rich'}"
    code = (
        "import sys\n"
        "from megatron_rl.cli import main\n"
        "try:\n    main(['train', '--help'])\n"
        f"finally:\n    print(sorted({heavy} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == "[]"


def test_a_typo_in_the_file_exits_2_and_names_the_right_key(config_file: Path):
    config_file.write_text(CONFIG + "[rollout]\ngroup_sze = 4\n")
    done = run_cli("train", str(config_file))
    assert done.returncode == 2
    assert done.stderr == (
        f"megatron-rl: error: {config_file}: unknown key rollout.group_sze; "
        "did you mean rollout.group_size?\n"
    )


def test_a_missing_file_exits_2_and_is_named(tmp_path: Path, capsys):
    assert cli.main(["learn", str(tmp_path / "absent.toml")]) == 2
    assert capsys.readouterr().err == (
        f"megatron-rl: error: {tmp_path}/absent.toml: cannot be read: No such file or directory\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["trian", "run.toml"],
        ["train"],
        ["serve", "run.toml", "--index", "-1"],
        ["rollout", "run.toml", "--num-batches", "0"],
        ["evaluate", "run.toml", "--num-samples", "many"],
    ],
)
def test_wrong_arguments_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(arguments)
    assert exit_info.value.code == 2
    assert "usage: megatron-rl" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "learn", "rollout", "serve", "sft", "evaluate"])
def test_dry_run_prints_the_resolved_configuration(command, config_file, capsys):
    assert cli.main([command, str(config_file), "--dry-run", "--set", "num_steps=7"]) == 0
    resolved = json.loads(capsys.readouterr().out)
    assert resolved["num_steps"] == 7
    assert Path(resolved["model"]["path"]).is_absolute()


def test_a_cold_start_alone_of_a_run_without_one_is_refused(config_file, capsys):
    assert cli.main(["train", str(config_file), "--only", "sft"]) == 2
    assert "--only sft: the configuration has no [sft] table" in capsys.readouterr().err


def test_what_dry_run_prints_is_a_configuration(config_file, tmp_path, capsys):
    cli.main(["train", str(config_file), "--dry-run"])
    printed = capsys.readouterr().out
    resolved = tmp_path / "config.json"
    resolved.write_text(printed)
    assert cli.main(["train", str(resolved), "--dry-run"]) == 0
    assert capsys.readouterr().out == printed


def test_a_broken_override_exits_2(config_file, capsys):
    assert cli.main(["train", str(config_file), "--set", "num_steps"]) == 2
    assert "--set num_steps: expected section.key=value" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("bad"), 2),
        (DataError("bad"), 2),
        (ModelError("bad"), 2),
        (CheckpointError("bad"), 1),
        (MegatronRLError("bad"), 1),
        (Interrupted("bad"), 75),
    ],
)
def test_the_exit_code_tells_what_kind_of_failure_it_was(error, code, capsys):
    def failing() -> int:
        raise error

    assert cli.exit_code_of(failing) == code
    assert capsys.readouterr().err == "megatron-rl: error: bad\n"


def test_ctrl_c_exits_130():
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert cli.exit_code_of(interrupted) == 130


def test_a_bug_keeps_its_traceback():
    def buggy() -> int:
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        cli.exit_code_of(buggy)


def test_schema_prints_a_json_schema(capsys):
    assert cli.main(["schema"]) == 0
    assert "num_steps" in json.loads(capsys.readouterr().out)["required"]


def test_report_of_a_folder_that_is_no_run_exits_2(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 2
    assert f"{tmp_path}/config.json: cannot be read" in capsys.readouterr().err


def test_doctor_names_a_serving_interpreter_that_is_not_there(config_file, tmp_path, capsys):
    with config_file.open("a") as file:
        file.write(f'[generators]\npython = "{tmp_path}/absent/bin/python"\n')
    assert cli.main(["doctor", str(config_file)]) == 1
    out = capsys.readouterr().out
    assert f"no interpreter {tmp_path}/absent/bin/python" in out
    assert "-> make env, or set generators.python" in out
