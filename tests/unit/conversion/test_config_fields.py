"""Fields of config.json: the inert ones are accepted, wrong values and real switches refused."""

import pytest
import transformers

from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.families.tables import FAMILIES, IMPLIED
from megatron_rl.errors import ModelError
from tests.unit.conversion.family_configs import (
    CONFIGS,
    GEMMA3,
    GPT_OSS,
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    every_family,
)

YARN = {"rope_type": "yarn", "factor": 2.0}


@every_family
@pytest.mark.parametrize(
    "field",
    [
        {"_attn_implementation_autoset": True},
        {"unsloth_version": "2025.3.9"},
        {"unsloth_fixed": True},
        {"tokenizer_class": "LlamaTokenizerFast"},
        {"is_llama_config": True},
        {"rope_interleaved": False},
        {"quantization_config": None},
        {"sliding_window": None},
        {"partial_rotary_factor": 1.0},
        {"pretraining_tp": 1},
        {"pruned_heads": {}},
        {"do_sample": True, "temperature": 0.6, "max_length": 4096},
        {"transformers.js_config": {"dtype": "q4"}},
        {"max_sequence_length": 256, "model_max_length": 256},
        {"clever": None},
    ],
    ids=lambda field: next(iter(field)),
)
def test_a_field_that_cannot_change_the_forward_pass_is_as_if_it_were_not_there(config, field):
    if "partial_rotary_factor" in FAMILIES[config["model_type"]].fields & set(field):
        pytest.skip("a family that rotates half of a head unless it is told otherwise")
    if config is GEMMA3 and "sliding_window" in field:
        pytest.skip("a family that has layers that slide")
    if "sliding_attention" in config.get("layer_types", ()) and "sliding_window" in field:
        pytest.skip("layers that slide need to know how far")
    assert model_spec(config | field) == model_spec(config)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (LLAMA, {"use_sliding_window": False, "max_window_layers": 28}),
        (LLAMA, {"layer_types": ["full_attention"] * 2}),
        (GPT_OSS, {"swiglu_limit": 7.0, "hidden_act_alpha": 1.702, "experts_per_token": 2}),
        (GPT_OSS, {"initial_context_length": 4096, "num_experts": 4}),
        (MISTRAL, {"layer_types": ["full_attention"] * 2, "use_sliding_window": False}),
        (MISTRAL, {"attention_bias": False, "mlp_bias": False}),
        (MIXTRAL, {"norm_topk_prob": True}),
        (QWEN3_MOE, {"layer_types": ["full_attention"] * 2}),
        (QWEN3_MOE, {"shared_expert_intermediate_size": 0, "use_qk_norm": True}),
        (QWEN3, {"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 1.0}}),
    ],
)
def test_a_field_that_says_what_the_family_does_anyway_is_accepted(config, field):
    assert model_spec(config | field) == model_spec(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LLAMA | {"rope_interleaved": True}, r"for llama: rope_interleaved = true\. Each may"),
        (LLAMA | {"partial_rotary_factor": 0.5}, r"partial_rotary_factor = 0\.5\."),
        (
            QWEN3 | {"quantization_config": {"quant_method": "awq", "bits": 4}},
            r'quantization_config = \{"quant_method": "awq", "bits": 4\}: quantised weights cannot '
            r"be trained; name the folder of the model's unquantised release$",
        ),
        (QWEN3 | {"quantization": {"group_size": 64, "bits": 4}}, r"^quantization = .*quantised"),
        (QWEN3 | {"compression_config": {"format": "int"}}, r"^compression_config = .*quantised"),
        (MISTRAL | {"sliding_window": 8, "use_sliding_window": False}, r"use_sliding_window = fal"),
        (MISTRAL | {"layer_types": ["sliding_attention", "full_attention"]}, r"layer_types = \["),
        # Without the field this family has a window of 4096.
        (
            {k: v for k, v in MISTRAL.items() if k != "sliding_window"}
            | {"layer_types": ["full_attention"] * 2},
            r"layer_types = ",
        ),
        (LLAMA | {"max_sequence_length": 128}, r"max_sequence_length = 128\."),
        (LLAMA | {"bias": True}, r"for llama: bias = true"),
        (QWEN2 | {"attention_bias": False}, r"attention_bias = false"),
        (MIXTRAL | {"norm_topk_prob": False}, r"norm_topk_prob = false"),
        (GPT_OSS | {"swiglu_limit": 10.0}, r"for gpt_oss: swiglu_limit = 10\.0\."),
        (GPT_OSS | {"attention_bias": False}, r"^attention_bias = false is not supported: Megatr"),
        (GPT_OSS | {"experts_per_token": 3}, r"^num_experts_per_tok and experts_per_token differ"),
        (GPT_OSS | {"sliding_window": None}, r"^layer_types has sliding_attention, but"),
        (GPT_OSS | {"num_experts_per_tok": 1}, r"router would have no gradient"),
        (LLAMA | {"auto_map": {"AutoModelForCausalLM": "own.Model"}}, r"auto_map = \{"),
        (LLAMA | {"clever": "x" * 100}, r'clever = "x{59}\.\.\.\.'),
    ],
)
def test_a_field_that_can_change_the_forward_pass_is_refused_with_its_value(config, message):
    with pytest.raises(ModelError, match=message):
        model_spec(config)


@pytest.mark.parametrize(
    "prefix",
    [
        *("Llama", "Mistral", "Qwen2", "Qwen3", "Mixtral", "Qwen3Moe", "Glm4", "Gemma3Text"),
        *("DeepseekV2", "DeepseekV3", "GptOss"),
    ],
)
def test_a_missing_field_is_what_the_installed_transformers_takes_it_for(prefix):
    config = getattr(transformers, f"{prefix}Config")()
    implied = IMPLIED | dict(FAMILIES[config.model_type].implied)
    rope = config.rope_parameters
    rope = rope["full_attention"] if "full_attention" in rope else rope
    defaults = config.to_dict() | {"hidden_act": "silu", "rope_theta": rope["rope_theta"]}
    for key, value in IMPLIED.items():
        assert implied[key] == defaults[key], (prefix, key, value)


@every_family
@pytest.mark.parametrize("key", sorted(IMPLIED))
def test_every_field_but_a_size_may_be_missing(config, key):
    spec = model_spec({k: v for k, v in config.items() if k != key})
    assert spec.family == config["model_type"]
    assert spec.is_tied == (config is GEMMA3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_theta": None}, r"^rope_theta \(null\) must be a number > 0; correct it by"),
        ({"rope_theta": 0}, r"^rope_theta \(0\) must be a number > 0"),
        ({"rope_theta": float("nan")}, r"^rope_theta \(NaN\) must be a number > 0"),
        ({"rope_scaling": [YARN]}, r"^rope_scaling \(\[\{.*\]\) must be an object or null"),
        ({"rope_scaling": "yarn"}, r'^rope_scaling \("yarn"\) must be an object or null'),
        ({"rope_scaling": YARN | {"factor": "2"}}, r'^rope_scaling\.factor \("2"\) must be a num'),
        ({"rope_scaling": YARN | {"factor": None}}, r"'factor'"),
        ({"rope_scaling": YARN | {"rope_type": ["yarn"]}}, r"^rope_scaling\.rope_type \(\["),
        ({"rope_parameters": {"rope_theta": None}}, r"^rope_parameters\.rope_theta \(null\) must"),
        ({"hidden_size": "64"}, r'^hidden_size \("64"\) must be a whole number > 0'),
        ({"hidden_size": 64.0}, r"^hidden_size \(64\.0\) must be a whole number > 0"),
        ({"num_hidden_layers": 0}, r"^num_hidden_layers \(0\) must be a whole number > 0"),
        ({"vocab_size": None}, r"^vocab_size \(null\) must be a whole number > 0"),
        ({"num_attention_heads": True}, r"^num_attention_heads \(true\) must be a whole number"),
        ({"tie_word_embeddings": "false"}, r'^tie_word_embeddings \("false"\) must be true or'),
        ({"layer_types": "full_attention"}, r"^layer_types .* must be a list of texts or null"),
        ({"layer_types": [1, 2]}, r"^layer_types \(\[1, 2\]\) must be a list of texts or null"),
        ({"model_type": ["qwen3"]}, r'^model_type \(\["qwen3"\]\) must be a text'),
        ({"rms_norm_eps": "1e-6"}, r'^rms_norm_eps \("1e-6"\) must be a number > 0'),
        ({"num_key_value_heads": 3}, r"num_key_value_heads \(3\) must divide num_attention_heads"),
        ({"head_dim": 15}, r"head_dim \(15\) must be even"),
    ],
)
def test_a_value_that_a_field_cannot_have_is_refused_by_its_rule(change, message):
    with pytest.raises((ModelError, KeyError), match=message):
        model_spec(QWEN3 | change)


def test_sizes_that_do_not_go_together_are_refused():
    with pytest.raises(ModelError, match=r"num_attention_heads \(6\) must divide hidden_size"):
        model_spec(MISTRAL | {"num_attention_heads": 6, "head_dim": None})
    with pytest.raises(ModelError, match=r"num_experts_per_tok \(5\) must be <= the number of exp"):
        model_spec(MIXTRAL | {"num_experts_per_tok": 5})


def test_every_value_of_another_type_is_refused_or_understood_never_a_crash():
    for config in CONFIGS:
        for key in config:
            for value in (None, True, -1, 0, 0.5, "x", [], [1], {}, {"a": 1}):
                try:
                    model_spec(config | {key: value})
                except ModelError as error:
                    assert key in str(error) or "model_type" in str(error), (key, value, error)
