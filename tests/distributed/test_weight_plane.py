"""The plane of a run's checkpoints, from real Megatron checkpoints."""

import shutil

import pytest
import torch

from megatron_rl.config import resolve
from megatron_rl.errors import ConfigError
from megatron_rl.hf_folder import WeightReader
from megatron_rl.learner.checkpoint.steps import step_folder
from megatron_rl.programs.offline.weight_space_directions import open_plane
from megatron_rl.run_dir import RunDir
from tests.tiny_models import write_model
from tests.trajectory import write_trajectory

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="checkpoints are converted in a process without GPUs"
    ),
]
STEPS = (10, 20, 30)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run with three checkpoints that differ by some thousandths, as those of a run do."""
    folder = tmp_path_factory.mktemp("plane")
    model = write_model("qwen3 tied, yarn", folder / "model")
    run_dir = RunDir(folder / "run")
    write_trajectory(model, run_dir.checkpoints, STEPS, spread=1e-3)
    return resolve(
        {
            "run_dir": run_dir.root,
            "num_steps": STEPS[-1],
            "model": {"path": model, "dtype": "float32"},
            "data": {"train": folder / "none.jsonl"},
        }
    )


def test_three_checkpoints_lie_in_their_plane(config, tmp_path):
    with open_plane(config, tmp_path / "map") as plane:
        assert plane.steps == STEPS
        for step, position in zip(STEPS, plane.directions.positions_T2, strict=True):
            expected = WeightReader(RunDir(config.run_dir).checkpoints / f"hf_{step}")
            found = dict(plane.weights_at(*position))
            assert found.keys() == expected.names
            for name, tensor in found.items():
                torch.testing.assert_close(tensor, expected(name), atol=2e-7, rtol=2e-7)


def test_the_directions_are_of_unit_norm_and_kept(config, tmp_path):
    out = tmp_path / "map"
    with open_plane(config, out) as plane:
        first = {name: plane.along[0](name).double() for name in plane.names}
        second = {name: plane.along[1](name).double() for name in plane.names}
    assert sum((t**2).sum() for t in first.values()).item() == pytest.approx(1, abs=1e-5)
    assert sum((first[n] * second[n]).sum() for n in first).item() == pytest.approx(0, abs=1e-5)
    written = (out / "direction_1/model.safetensors").stat().st_mtime_ns
    with open_plane(config, out) as again:
        assert again.directions.positions_T2.tolist() == plane.directions.positions_T2.tolist()
    assert (out / "direction_1/model.safetensors").stat().st_mtime_ns == written


def test_a_folder_of_other_checkpoints_is_refused(config, tmp_path):
    with open_plane(config, tmp_path):
        pass
    record = tmp_path / "directions.json"
    record.write_text(record.read_text().replace("30", "40"))
    with pytest.raises(ConfigError, match=r"holds the directions of .*\[10, 20, 30\] now"):
        open_plane(config, tmp_path).__enter__()


def test_two_checkpoints_are_no_plane(config, tmp_path):
    run_dir = tmp_path / "run"
    for step in STEPS[:2]:
        source = step_folder(RunDir(config.run_dir).checkpoints, step)
        shutil.copytree(source, step_folder(RunDir(run_dir).checkpoints, step))
    short = config.model_copy(update={"run_dir": run_dir})
    with pytest.raises(ConfigError, match=r"2 checkpoints.*checkpoint\.keep_every"):
        open_plane(short, tmp_path / "map").__enter__()
