"""The conversion tools: byte for byte, from and to every family, out of every layout."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from ranks import free_port, run_on_ranks
from safetensors.torch import load_file, save_file

from megatron_rl.hf_folder import WeightReader
from tests.tiny_models import CASES, write_model

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="the tools hide the GPUs from the process they run in"
    ),
]

TOOLS = Path(__file__).parents[2] / "tools"
LAYOUTS = {
    "tp2": {"tp": 2, "sp": True},
    "pp2": {"pp": 2},
    "pp2 x vp2": {"pp": 2, "vpp": 2},
    "ep2": {"ep": 2},
}


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def convert(monkeypatch):
    """Run a tool in this process, for importing Megatron takes longer than converting."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as the tools do, but taken back

    def run(name, *arguments):
        return load_tool(name).main([str(argument) for argument in arguments])

    return run


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Run folders saved by two ranks, one of each layout."""
    folder = tmp_path_factory.mktemp("saved")
    argument = {
        "layouts": LAYOUTS,
        "ports": [free_port() for _ in LAYOUTS],
        "folder": str(folder),
    }
    run_on_ranks("conversion_ranks:save_on_two_ranks", argument, num_ranks=2, timeout_s=120)
    return folder


def assert_equal_folders(actual: Path, expected: Path):
    assert WeightReader(actual).names == WeightReader(expected).names
    for name in WeightReader(expected).names:
        ours, theirs = WeightReader(actual)(name), WeightReader(expected)(name)
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name


@pytest.mark.parametrize("case", CASES)
def test_every_family_comes_back_byte_for_byte(case, convert, tmp_path):
    source = write_model(case, tmp_path / "hf")
    assert convert("convert_hf_to_megatron", source, tmp_path / "megatron") == 0
    arguments = (tmp_path / "megatron", tmp_path / "back", "--max-shard-size", "30K", "--verify")
    assert convert("convert_megatron_to_hf", *arguments) == 0
    assert_equal_folders(tmp_path / "back", source)
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 1
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text()
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_training_checkpoint_of_any_layout_becomes_the_trained_model(
    name, convert, saved, tmp_path
):
    step = saved / name / "checkpoints" / "step_000001"
    assert convert("convert_megatron_to_hf", step, tmp_path / "hf", "--verify") == 0
    expected = torch.load(saved / name / "expected.pt")
    read = WeightReader(tmp_path / "hf")
    assert read.names == set(expected)
    assert all(torch.equal(read(key), weight) for key, weight in expected.items())
    manifest = json.loads((tmp_path / "hf" / "manifest.json").read_text())
    assert set(manifest["tensors"]) == set(expected)


def test_weights_are_rounded_to_the_type_asked_for(convert, saved, tmp_path):
    arguments = (saved / "tp2" / "checkpoints", tmp_path / "hf", "--dtype", "bfloat16", "--verify")
    assert convert("convert_megatron_to_hf", *arguments) == 0
    for name, weight in torch.load(saved / "tp2" / "expected.pt").items():
        assert torch.equal(WeightReader(tmp_path / "hf")(name), weight.bfloat16())


def test_a_finished_target_is_kept_and_checked_again(convert, saved, tmp_path, capsys):
    arguments = ("convert_megatron_to_hf", saved / "pp2" / "checkpoints", tmp_path / "hf")
    assert convert(*arguments) == 0
    weights = tmp_path / "hf" / "model.safetensors"
    written_at = weights.stat().st_mtime_ns
    assert convert(*arguments, "--verify") == 0
    assert weights.stat().st_mtime_ns == written_at
    tensors = load_file(weights)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, weights)
    assert convert(*arguments, "--verify") == 2
    assert "model.norm.weight" in capsys.readouterr().err
    assert convert(*arguments, "--dtype", "bfloat16") == 2  # the target is another conversion's


def test_a_folder_that_is_no_conversion_is_never_replaced(convert, saved, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert convert("convert_megatron_to_hf", saved / "pp2" / "checkpoints", tmp_path / "mine") == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        # Tensors are compared in the order of the model: its first difference is named.
        ("intermediate_size", 64, "model.layers.0.mlp.gate_proj.weight (48, 32) (64, 32)"),
        ("vocab_size", 60, "model.embed_tokens.weight (61, 32) (60, 32)"),
        ("num_hidden_layers", 4, "model.layers.3.input_layernorm.weight"),
        ("num_hidden_layers", 2, "model.layers.2.input_layernorm.weight"),
    ],
)
def test_a_config_that_disagrees_with_the_tensors_is_refused_by_name(
    field, value, named, convert, tmp_path, capsys
):
    source = write_model("llama", tmp_path / "hf")
    config = json.loads((source / "config.json").read_text()) | {field: value}
    (source / "config.json").write_text(json.dumps(config))
    assert convert("convert_hf_to_megatron", source, tmp_path / "megatron") == 2
    message = capsys.readouterr().err
    name, *shapes = named.replace(") (", ")|(").replace(" (", "|(").split("|")
    assert all(part in message for part in (name, *shapes)), message
    assert not (tmp_path / "megatron").exists()


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("intermediate_size", 64, "mlp.linear_fc1.weight"),
        ("vocab_size", 59, "embedding.word_embeddings.weight"),
        ("num_hidden_layers", 2, "decoder.layers"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_name(
    field, value, named, convert, saved, tmp_path, capsys
):
    model = shutil.copytree(saved / "tp2" / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {field: value}
    (model / "config.json").write_text(json.dumps(config))
    arguments = (saved / "tp2" / "checkpoints", tmp_path / "hf", "--model", model)
    assert convert("convert_megatron_to_hf", *arguments) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()
