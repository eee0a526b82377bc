"""Model folders: what is written is what transformers reads, whole or not at all."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from megatron_rl.errors import ModelError
from megatron_rl.hf_folder import (
    WeightReader,
    check_weight_format,
    has_weights,
    random_tensor,
    stop_token_ids,
    write_hf_folder,
)
from tests.tiny_models import write_model

WEIGHTS = {
    "a": torch.arange(6.0).reshape(2, 3),  # 24 bytes
    "b": torch.ones(4, dtype=torch.bfloat16),  # 8 bytes
    "c": torch.full((5,), 2.0),  # 20 bytes
}


@pytest.fixture
def source(tmp_path):
    """Where config and tokenizer come from, with weights that must not be copied."""
    folder = tmp_path / "source"
    (folder / "subfolder").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "tokenizer.json").write_text("{}")
    for name in ("model.safetensors", "pytorch_model.bin", "consolidated.00.pth", "x.gguf"):
        (folder / name).write_text("old weights")
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        (folder / name).write_text('{"weight_map": {}}')
    return folder


def write(target, source, *, max_shard_bytes=1000, weights=WEIGHTS):
    write_hf_folder(target, weights.items(), source=source, max_shard_bytes=max_shard_bytes)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("max_shard_bytes", [1, 32, 1000])
def test_what_is_written_is_read_bit_for_bit(tmp_path, source, max_shard_bytes):
    write(tmp_path / "hf", source, max_shard_bytes=max_shard_bytes)
    assert has_weights(tmp_path / "hf")
    reader = WeightReader(tmp_path / "hf")
    assert reader.names == set(WEIGHTS)
    for name, weight in WEIGHTS.items():
        assert torch.equal(reader(name), weight)
        assert reader(name).dtype == weight.dtype


def test_one_shard_has_the_plain_name_and_no_index(tmp_path, source):
    write(tmp_path / "hf", source)
    assert files(tmp_path / "hf") == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_shard_ends_where_the_next_tensor_would_exceed_the_limit(tmp_path, source):
    # 24 + 8 = 32 fit, 20 more do not.
    write(tmp_path / "hf", source, max_shard_bytes=32)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    assert index["weight_map"] == {"a": first, "b": first, "c": second}
    assert index["metadata"]["total_size"] == 52
    assert {first, second} <= set(files(tmp_path / "hf"))


def test_everything_but_weights_is_copied(tmp_path, source):
    write(tmp_path / "hf", source)
    assert (tmp_path / "hf" / "config.json").read_text() == '{"model_type": "qwen3"}'
    assert not (tmp_path / "hf" / "pytorch_model.bin.index.json").exists()


def test_weights_may_change_once_they_are_yielded(tmp_path, source):
    def reusing_one_buffer():
        buffer = torch.zeros(3)
        for i in range(3):
            buffer.fill_(i)
            yield f"w{i}", buffer

    write_hf_folder(tmp_path / "hf", reusing_one_buffer(), source=source, max_shard_bytes=1000)
    reader = WeightReader(tmp_path / "hf")
    assert [reader(f"w{i}")[0].item() for i in range(3)] == [0, 1, 2]


def test_a_failure_in_the_middle_leaves_the_old_folder_as_it_was(tmp_path, source):
    write(tmp_path / "hf", source)

    def breaking_off():
        yield "a", torch.zeros(2, 3)
        raise RuntimeError("a rank died")

    with pytest.raises(RuntimeError, match="a rank died"):
        write_hf_folder(tmp_path / "hf", breaking_off(), source=source, max_shard_bytes=1)
    assert torch.equal(WeightReader(tmp_path / "hf")("a"), WEIGHTS["a"])


def test_a_folder_is_replaced_and_nothing_else_is_left(tmp_path, source):
    write(tmp_path / "hf", source, max_shard_bytes=1)
    write(tmp_path / "hf", source, weights={"a": torch.zeros(2)})
    assert WeightReader(tmp_path / "hf").names == {"a"}
    assert files(tmp_path) == ["hf", "source"]


def test_a_missing_tensor_is_named(tmp_path, source):
    write(tmp_path / "hf", source)
    with pytest.raises(ModelError, match=r"tensor lm_head\.weight is missing"):
        WeightReader(tmp_path / "hf")("lm_head.weight")


def test_a_folder_without_weights_says_what_belongs_there(tmp_path):
    assert not has_weights(tmp_path)
    check_weight_format(tmp_path)
    with pytest.raises(ModelError, match=r'no safetensors weights; .* and model\.init = "random"'):
        WeightReader(tmp_path)


@pytest.mark.parametrize(
    ("names", "what", "remedy"),
    [
        (["pytorch_model.bin"], "pytorch_model.bin is pickled weights", "AutoModelForCausalLM"),
        (
            ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"],
            "pytorch_model-00001-of-00002.bin is pickled weights",
            "save_pretrained",
        ),
        (["adapter_model.safetensors", "adapter_config.json"], "an adapter", "merge_and_unload"),
        (["adapter_model.bin"], "adapter_model.bin is an adapter", "merge_and_unload"),
        (["model-00001-of-00002.safetensors"], "whose list model.safetensors.index.json", "copy"),
        (["model-q4.gguf"], "model-q4.gguf is weights for llama.cpp", "release"),
        (["consolidated.safetensors"], "their author's own format", "release"),
        (["consolidated.00.pth"], "their author's own format", "release"),
        (["tf_model.h5"], "weights for TensorFlow", "release"),
        (["flax_model.msgpack"], "weights for Flax", "release"),
        (["weights.safetensors"], "neither model.safetensors nor named by", "release"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_weights_of_another_format_are_named_with_what_to_do(tmp_path, names, what, remedy):
    for name in names:
        (tmp_path / name).write_text("weights")
    for refused in (check_weight_format, WeightReader):
        with pytest.raises(ModelError) as error:
            refused(tmp_path)
        assert what in str(error.value) and remedy in str(error.value)
        assert "random" not in str(error.value)
    (tmp_path / "model.safetensors").write_text("weights")
    check_weight_format(tmp_path)


def test_the_remedy_for_pickled_weights_works(tmp_path):
    write_model("qwen3", tmp_path / "old")
    weights = load_file(tmp_path / "old/model.safetensors")
    torch.save(weights, tmp_path / "old/pytorch_model.bin")
    (tmp_path / "old/model.safetensors").unlink()
    with pytest.raises(ModelError) as error:
        check_weight_format(tmp_path / "old")
    command = re.search(r"AutoModelForCausalLM\S+ dtype=\S+", str(error.value))[0].rstrip(",")
    eval(command.replace("NEW_FOLDER", str(tmp_path / "new")))
    reader = WeightReader(tmp_path / "new")
    assert reader.names == set(weights)
    assert all(torch.equal(reader(name), tensor) for name, tensor in weights.items())


def test_a_damaged_file_is_named(tmp_path, source):
    write(tmp_path / "hf", source)
    path = tmp_path / "hf" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"model\.safetensors: cannot be read"):
        WeightReader(tmp_path / "hf")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index_is_named(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"index\.json: cannot be read"):
        WeightReader(tmp_path)


def test_a_shard_that_is_gone_is_named(tmp_path, source):
    write(tmp_path / "hf", source, max_shard_bytes=1)
    (tmp_path / "hf" / "model-00002-of-00003.safetensors").unlink()
    reader = WeightReader(tmp_path / "hf")
    reader("a")
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.safetensors: cannot be read"):
        reader("b")


@pytest.mark.parametrize("max_shard_bytes", [5000, 10**9])
def test_transformers_loads_what_is_written(tmp_path, max_shard_bytes):
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(tmp_path / "source")
    weights = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    write(tmp_path / "hf", tmp_path / "source", weights=weights, max_shard_bytes=max_shard_bytes)
    loaded = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "hf").named_parameters())
    assert set(loaded) == set(weights)
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_random_weights_depend_on_name_seed_and_shape_only():
    def make(name="w", shape=(4, 5), seed=1):
        return random_tensor(name, shape, std=0.5, seed=seed)

    assert torch.equal(make(), make())
    assert not torch.equal(make(), make(name="v"))
    assert not torch.equal(make(), make(seed=2))
    assert random_tensor("w", (200, 200), std=0.5, seed=1).std().item() == pytest.approx(0.5, 0.02)
    assert make(name="model.norm.weight", shape=(3,)).tolist() == [1, 1, 1]
    assert make(name="o_proj.bias", shape=(3,)).tolist() == [0, 0, 0]
    assert make(name="experts.down_proj_bias", shape=(3, 2)).count_nonzero() == 0
    assert make(name="self_attn.sinks", shape=(3,)).count_nonzero() == 3


def test_a_server_stops_at_the_tokens_of_both_configurations(tmp_path):
    assert stop_token_ids(tmp_path) == frozenset()
    (tmp_path / "config.json").write_text('{"eos_token_id": 1}')
    assert stop_token_ids(tmp_path) == {1}
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')
    assert stop_token_ids(tmp_path) == {1, 2, 3}
    (tmp_path / "config.json").write_text('{"eos_token_id": null}')
    assert stop_token_ids(tmp_path) == {2, 3}
    (tmp_path / "generation_config.json").write_text("[")
    with pytest.raises(ModelError, match=r"generation_config\.json: its eos_token_id cannot be"):
        stop_token_ids(tmp_path)
