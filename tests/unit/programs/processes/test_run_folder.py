"""One launcher at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_rl.config import RunConfig
from megatron_rl.errors import ConfigError
from megatron_rl.programs.processes.run_folder import held_alone, prepare_run_folder
from megatron_rl.run_dir import RunDir

HOLD = """
import sys, time
from pathlib import Path
from megatron_rl.programs.processes.run_folder import held_alone
from megatron_rl.run_dir import RunDir
with held_alone(RunDir(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_that_is_held_is_refused_with_the_name_of_its_process(tmp_path: Path):
    run_dir = RunDir(tmp_path / "run")
    command = [sys.executable, "-c", HOLD, str(run_dir.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match=f"in use by process {other.pid} on"),
            held_alone(run_dir),
        ):
            pass
        other.kill()
    # However it ended, nothing is left to be cleaned up.
    with held_alone(run_dir):
        assert str(os.getpid()) in (run_dir.root / ".lock").read_text()
    with held_alone(run_dir):
        pass


def test_a_run_that_has_gone_further_is_not_cut_short(tmp_path: Path):
    config = RunConfig(
        run_dir=tmp_path / "run",
        num_steps=40,
        model={"path": tmp_path},
        data={"train": tmp_path / "train.jsonl"},
    )
    run_dir = RunDir(config.run_dir)
    (run_dir.checkpoints / "step_000060").mkdir(parents=True)
    (run_dir.checkpoints / "latest.json").write_text('{"step": 60}')
    with pytest.raises(ConfigError, match=r"num_steps \(40\) must be >= the step .* \(60\)"):
        prepare_run_folder(config)
    prepare_run_folder(config.model_copy(update={"num_steps": 60}))
