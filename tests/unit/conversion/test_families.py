"""Families: the names are those transformers gives, and what is not understood is refused."""

import json

import pytest
import torch
import transformers

from megatron_rl.conversion.families import model_spec, read_model_spec, weight_rules
from megatron_rl.errors import ModelError

QWEN3 = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "initializer_range": 0.02,
}
MISTRAL = {**QWEN3, "model_type": "mistral", "sliding_window": None}
CLASSES = {
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
}
NOT_ALIKE = ("model_type", "rope_theta", "tie_word_embeddings")
FIELDS = {key: value for key, value in QWEN3.items() if key not in NOT_ALIKE}


def transformers_config(family, *, tied):
    rope = {"rope_type": "default", "rope_theta": 1e6}
    window = {"sliding_window": None}
    return CLASSES[family][0](**FIELDS | window, tie_word_embeddings=tied, rope_parameters=rope)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", CLASSES)
def test_the_rules_name_every_tensor_of_transformers_model_once(family, tied, tmp_path):
    config = transformers_config(family, tied=tied)
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = CLASSES[family][1](config)
    model.tie_weights()  # tied weights do not stay one tensor on the meta device by themselves
    spec = read_model_spec(tmp_path)
    assert spec.family == family
    assert spec.is_tied == tied
    names = [name for rule in weight_rules(spec) for name in rule.huggingface]
    assert sorted(names) == sorted(dict(model.named_parameters()))


@pytest.mark.parametrize("family", CLASSES)
def test_every_megatron_parameter_has_one_rule(family):
    rules = list(weight_rules(model_spec(QWEN3 | {"model_type": family, "sliding_window": None})))
    names = [rule.megatron for rule in rules]
    assert len(set(names)) == len(names)
    # Embedding, final norm and output; per layer 6 parameters, and 2 more with qk norm.
    assert len(names) == 3 + 2 * (8 if family == "qwen3" else 6)


def test_numbers_arrive_where_megatron_wants_them():
    spec = model_spec(QWEN3)
    assert (spec.num_layers, spec.hidden_size, spec.ffn_size) == (2, 64, 96)
    assert (spec.num_heads, spec.num_groups, spec.head_dim) == (4, 2, 32)
    assert (spec.vocab_size, spec.max_positions) == (128, 256)
    assert (spec.norm_eps, spec.rope_theta, spec.init_std) == (1e-6, 1e6, 0.02)
    assert spec.has_qk_norm
    assert not model_spec(MISTRAL).has_qk_norm


@pytest.mark.parametrize("head_dim", [{}, {"head_dim": None}])
def test_a_head_dim_that_is_not_given_is_the_hidden_size_over_the_heads(head_dim):
    config = {key: value for key, value in MISTRAL.items() if key != "head_dim"} | head_dim
    assert model_spec(config).head_dim == 16  # 64 / 4


def test_both_spellings_of_rope_are_read():
    nested = {key: value for key, value in QWEN3.items() if key != "rope_theta"}
    nested["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    assert model_spec(nested).rope_theta == 5e5
    assert model_spec(QWEN3 | {"rope_theta": 5e5, "rope_scaling": None}).rope_theta == 5e5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 8, "clever": 1}, r"fields not understood for qwen3: clever, num_experts$"),
        ({"model_type": "gpt2"}, r"'gpt2' is not supported; known: qwen3, mistral$"),
        ({"hidden_act": "gelu"}, r"hidden_act 'gelu'"),
        ({"attention_bias": True}, r"attention_bias = true"),
        ({"use_sliding_window": True, "sliding_window": 128}, r"sliding_window = 128"),
        ({"model_type": "mistral", "sliding_window": 4096}, r"sliding_window = 4096"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}}, r"rope scaling 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, r"rope scaling 'linear'"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            r"rope scaling 'llama3'",
        ),
        (
            {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            r"partial_rotary_factor",
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change, message):
    with pytest.raises(ModelError, match=message):
        model_spec(QWEN3 | change)


def test_a_sliding_window_that_is_not_in_force_is_accepted():
    model_spec(QWEN3 | {"use_sliding_window": False, "sliding_window": 4096})


@pytest.mark.parametrize("key", sorted(set(QWEN3)))
def test_a_missing_field_is_named_with_its_file(key, tmp_path):
    config = {k: v for k, v in QWEN3.items() if k != key}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if key == "head_dim":
        assert read_model_spec(tmp_path).head_dim == 16
        return
    with pytest.raises(ModelError, match=rf"config\.json: field '{key}' is missing"):
        read_model_spec(tmp_path)


def test_a_config_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json: cannot be read: No such file"):
        read_model_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: not valid JSON"):
        read_model_spec(tmp_path)
