"""The conversion tools: byte for byte, from and to every family, out of every layout."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from ranks import free_port, run_on_ranks
from safetensors.torch import load_file, save_file

from megatron_rl.config import resolve
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.conversion.progress import finish_file
from megatron_rl.hf_folder import WeightReader
from tests.tiny_models import CASES, tiny_model, write_model

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
# Experts with biases are not cut.
WHOLE_EXPERTS = {"tp2 x etp1": {"tp": 2, "sp": True, "etp": 1}}
FAMILIES = {
    case: ["tp2", "pp2", *(["ep2"] if "mix" in case or "moe" in case else [])]
    for case in (
        *("llama", "mistral", "qwen2", "qwen3", "qwen3 tied, yarn"),
        *("mixtral", "qwen3 moe", "qwen2 moe", "glm4 moe", "glm4", "gemma3"),
        *("deepseek v2 moe", "deepseek v3 moe"),
    )
} | {"gpt oss moe": [*WHOLE_EXPERTS, "pp2", "ep2"]}


def load_tool(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def convert():
    """Run a tool in this process, for importing Megatron takes longer than converting."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")  # as the tools do, but taken back

        def run(name, *arguments):
            return load_tool(name).main([str(argument) for argument in arguments])

        yield run


@pytest.fixture(scope="module")
def made_by_ranks(tmp_path_factory, convert):
    """Folder of runs trained at each layout, and of each family's checkpoint saved at each."""
    folder = tmp_path_factory.mktemp("ranks")
    converted = {}
    for case, layouts in FAMILIES.items():
        source = write_model(case, folder / case / "hf", num_hidden_layers=2)
        assert convert("convert_hf_to_megatron", source, folder / case / "megatron") == 0
        sizes = LAYOUTS | WHOLE_EXPERTS
        converted[str(folder / case / "megatron")] = {name: sizes[name] for name in layouts}
    trained = LAYOUTS | {"fp16": {"precision": "fp16"}}
    num_jobs = len(trained) + sum(map(len, converted.values()))
    argument = {
        "layouts": trained,
        "trained": str(folder),
        "converted": converted,
        "ports": [free_port() for _ in range(num_jobs)],
    }
    run_on_ranks("conversion_ranks:save_on_two_ranks", argument, num_ranks=2)
    return folder


@pytest.fixture
def saved(made_by_ranks):
    """Run folders saved by two ranks, one of each layout."""
    return made_by_ranks


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


def test_a_runs_checkpoint_becomes_a_folder_with_the_runs_rope_scaling(convert, tmp_path):
    source, run = write_model("qwen3", tmp_path / "hf"), tmp_path / "run"
    assert convert("convert_hf_to_megatron", source, tmp_path / "megatron") == 0
    step = (tmp_path / "megatron" / "step_000000").rename(tmp_path / "step")
    run.mkdir()
    (run / "checkpoints").mkdir()
    step = step.rename(run / "checkpoints" / "step_000000")
    config = resolve(
        {
            "run_dir": run,
            "num_steps": 1,
            "model": {"path": source, "rope_scaling": {"type": "llama3", "factor": 4.0}},
            "data": {"train": source / "none"},
        }
    )
    (run / "config.json").write_text(config.model_dump_json())
    assert convert("convert_megatron_to_hf", step, tmp_path / "back", "--verify") == 0
    assert_equal_folders(tmp_path / "back", source)
    back = read_model_spec(tmp_path / "back")
    assert back == read_model_spec(source, config.model.rope_scaling)
    assert back.max_positions == 4 * read_model_spec(source).max_positions


@pytest.mark.parametrize(
    ("case", "layout"), [(case, layout) for case, layouts in FAMILIES.items() for layout in layouts]
)
def test_every_family_comes_back_from_any_layout_that_loads_and_saves_it(
    case, layout, convert, made_by_ranks, tmp_path
):
    saved, source = made_by_ranks / case / "megatron" / layout, made_by_ranks / case / "hf"
    assert convert("convert_megatron_to_hf", saved, tmp_path / "hf", "--model", source) == 0
    assert_equal_folders(tmp_path / "hf", source)


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


def test_a_checkpoint_in_float16_keeps_its_type(convert, saved, tmp_path):
    step = saved / "fp16" / "checkpoints" / "step_000001"
    assert convert("convert_megatron_to_hf", step, tmp_path / "hf", "--verify") == 0
    read = WeightReader(tmp_path / "hf")
    for name, weight in torch.load(saved / "fp16" / "expected.pt").items():
        assert read(name).dtype == torch.float16 and torch.equal(read(name).float(), weight), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_folder_in_16_bits_comes_back_byte_for_byte(dtype, convert, tmp_path):
    source = write_model("qwen3", tmp_path / "hf")
    read = WeightReader(source)
    weights = {name: read(name).to(dtype) for name in read.names}
    for path in source.glob("*.safetensors*"):
        path.unlink()
    save_file(weights, source / "model.safetensors")
    assert convert("convert_hf_to_megatron", source, tmp_path / "megatron", "--verify") == 0
    assert convert("convert_megatron_to_hf", tmp_path / "megatron", tmp_path / "back") == 0
    assert_equal_folders(tmp_path / "back", source)


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


def damage(path: Path, damage_of: str):
    content = path.read_bytes()
    path.unlink()
    if damage_of != "missing":
        path.write_bytes(content[: len(content) // 2] if damage_of == "cut off" else b"\0" * 64)


@pytest.mark.parametrize("name", [".metadata", "common.pt", "metadata.json", "__0_0.distcp"])
@pytest.mark.parametrize("damage_of", ["missing", "cut off", "overwritten"])
def test_a_damaged_checkpoint_is_refused_by_the_name_of_the_file(
    name, damage_of, convert, saved, tmp_path, capsys
):
    step = shutil.copytree(saved / "pp2" / "checkpoints" / "step_000001", tmp_path / "step")
    damage(step / name, damage_of)
    arguments = (step, tmp_path / "hf", "--model", saved / "pp2" / "model")
    assert convert("convert_megatron_to_hf", *arguments) == 1
    message = capsys.readouterr().err
    assert name in message and len(message.splitlines()) == 1, message
    assert not (tmp_path / "hf").exists()


def test_a_damaged_tensor_is_refused_by_its_name(convert, saved, tmp_path, capsys):
    step = shutil.copytree(saved / "pp2" / "checkpoints" / "step_000001", tmp_path / "step")
    for path in step.glob("*.distcp"):
        path.write_bytes(b"\0" * path.stat().st_size)
    arguments = (step, tmp_path / "hf", "--model", saved / "pp2" / "model")
    assert convert("convert_megatron_to_hf", *arguments) == 1
    assert "embedding.word_embeddings.weight cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage_of", "reason"), [("missing", "names it"), ("cut off", "cannot be read")]
)
def test_a_damaged_shard_of_a_model_is_refused_by_name(
    damage_of, reason, convert, tmp_path, capsys
):
    source = write_shards("llama", tmp_path)
    damage(source / "model-00002-of-00003.safetensors", damage_of)
    assert convert("convert_hf_to_megatron", source, tmp_path / "megatron") == 2
    message = capsys.readouterr().err
    assert "model-00002-of-00003.safetensors" in message and reason in message
    assert "copy the folder again" in message
    assert not (tmp_path / "megatron").exists()


def test_a_checkpoint_of_another_family_is_refused_by_name(convert, saved, tmp_path, capsys):
    other = write_model("mixtral", tmp_path / "other")
    arguments = (saved / "pp2" / "checkpoints", tmp_path / "hf", "--model", other)
    assert convert("convert_megatron_to_hf", *arguments) == 2
    message = capsys.readouterr().err
    assert "decoder.layers" in message and "--model" in message


def test_an_untied_output_layer_is_never_dropped(convert, saved, tmp_path, capsys):
    model = shutil.copytree(saved / "pp2" / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"tie_word_embeddings": True}
    (model / "config.json").write_text(json.dumps(config))
    arguments = (saved / "pp2" / "checkpoints", tmp_path / "hf", "--model", model)
    assert convert("convert_megatron_to_hf", *arguments) == 2
    assert "output_layer.weight of its own" in capsys.readouterr().err

    source = write_model("llama", tmp_path / "untied")
    config = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": True}
    (source / "config.json").write_text(json.dumps(config))
    assert convert("convert_hf_to_megatron", source, tmp_path / "megatron") == 2
    assert "lm_head.weight is not the embedding" in capsys.readouterr().err


def write_shards(case: str, folder: Path) -> Path:
    """Save a case in three files."""
    source = folder / "sharded"
    tiny_model(case).save_pretrained(source, max_shard_size="60KB")
    assert len(list(source.glob("*.safetensors"))) == 3
    return source


class KilledError(BaseException):
    """What stands for the end of the process."""


@pytest.mark.parametrize("tool", ["convert_hf_to_megatron", "convert_megatron_to_hf"])
def test_a_killed_conversion_goes_on_after_its_last_whole_file(
    tool, convert, tmp_path, monkeypatch
):
    source = write_model("qwen3 moe", tmp_path / "hf")
    arguments = [tmp_path / "hf"]
    if tool == "convert_megatron_to_hf":
        assert convert("convert_hf_to_megatron", source, tmp_path / "megatron") == 0
        arguments = [tmp_path / "megatron"]
    arguments.append(tmp_path / "target")
    if tool == "convert_megatron_to_hf":
        arguments += ["--max-shard-size", "40K"]
    files, kill_at = [], 4

    def finish_and_die(folder, name, *rest):
        file = finish_file(folder, name, *rest)
        files.append(folder / name)
        if len(files) == kill_at:
            raise KilledError
        return file

    monkeypatch.setattr("megatron_rl.programs.offline.convert.finish_file", finish_and_die)
    with pytest.raises(KilledError):
        convert(tool, *arguments)
    assert not (tmp_path / "target").exists()
    written_at = {path: path.stat().st_mtime_ns for path in files}
    damaged = files[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    monkeypatch.setattr("megatron_rl.programs.offline.convert.finish_file", finish_file)
    assert convert(tool, *arguments, "--verify") == 0
    partial = tmp_path / ".target.converting"
    for path, time_ns in written_at.items():
        now = (tmp_path / "target" / path.relative_to(partial)).stat().st_mtime_ns
        assert (now == time_ns) == (path != damaged), path
    assert not partial.exists() and not (tmp_path / "target" / "progress.jsonl").exists()
    if tool == "convert_megatron_to_hf":
        assert_equal_folders(tmp_path / "target", source)
