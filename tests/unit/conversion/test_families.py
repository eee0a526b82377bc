"""Families: the names are those transformers gives, and what is not understood is refused."""

import json
import re

import pytest

from megatron_rl.conversion.families import model_spec, read_model_spec, weight_rules
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.conversion.families.tables import IMPLIED
from megatron_rl.errors import ModelError
from megatron_rl.hf_folder import WeightReader
from megatron_rl.model_spec import LinearScaling, Llama3Scaling, YarnScaling
from tests.tiny_models import BASE, CASES, tiny_model, write_model
from tests.unit.conversion.family_configs import (
    GEMMA3,
    GLM4,
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN2,
    QWEN3,
    QWEN3_MOE,
    every_family,
)


@pytest.mark.parametrize("case", CASES)
def test_the_rules_name_every_tensor_that_transformers_writes_once(case, tmp_path):
    prefix, fields = CASES[case]
    write_model(case, tmp_path)
    spec = read_model_spec(tmp_path)
    assert spec.family.replace("_", "") == prefix.lower()
    assert spec.is_tied == (BASE | fields)["tie_word_embeddings"]
    names = [name for name, _ in tensor_shapes(spec)]
    assert sorted(names) == sorted(WeightReader(tmp_path).names)
    assert set(names) == {name for rule in weight_rules(spec) for name in rule.huggingface}


@pytest.mark.parametrize("case", [case for case, (family, _) in CASES.items() if "x" not in family])
def test_dense_families_have_the_same_names_in_memory(case, tmp_path):
    config = write_model(case, tmp_path)
    names = [name for name, _ in tensor_shapes(read_model_spec(config))]
    model = tiny_model(case)
    biases = {name for name, _ in model.named_buffers() if name.endswith("correction_bias")}
    in_memory = set(dict(model.named_parameters())) | biases
    fused = {name for name in in_memory if ".experts." in name}
    # transformers 5 makes one tensor of all experts of a layer, but writes it so for gpt-oss alone.
    assert all(re.search(r"(gate_up|down)_proj(_bias)?$", name) for name in fused)
    outside = {name for name in names if ".experts." not in name}
    assert outside == in_memory - fused


@every_family
def test_every_megatron_parameter_has_one_rule(config):
    spec = model_spec(config)
    names = [rule.megatron for rule in weight_rules(spec)]
    assert len(set(names)) == len(names)
    # Embedding, final norm and, unless tied, output. Per layer: norm, qkv and projection, with qk
    # norm 2 more, with a bias 1 more; then norm, gate with up, and down, or norm, router and 2 for
    # each expert, with a shared expert 2 and its gate 1 more, with a bias of the router 1 more. A
    # sandwich norm after each of the two. Biases everywhere are 1 more for projection and router
    # and 2 for each expert, sinks 1 more.
    # Of latent attention: norm, projection, and for each latent two projections and a norm, or one
    # for queries without a latent.
    attention = 3 + 2 * spec.has_qk_norm + spec.has_qkv_bias + spec.has_sandwich_norms
    attention += spec.has_linear_biases + spec.has_sinks
    if spec.latent is not None:
        attention = 2 + 3 + (1 if spec.latent.query_rank is None else 3)
    mlp = 3 + spec.has_sandwich_norms
    if spec.moe is not None:
        shared = spec.moe.shared
        mlp = 2 + 2 * 4 + (0 if shared is None else 2 + shared.has_gate)
        mlp += spec.moe.routing is not None
        mlp += (1 + 2 * 4) * spec.has_linear_biases
    assert len(names) == 3 - spec.is_tied + 2 * (attention + mlp)


def test_experts_are_numbered_over_all_ranks_and_marked():
    rules = {rule.megatron: rule for rule in weight_rules(model_spec(MIXTRAL))}
    rule = rules["decoder.layers.1.mlp.experts.local_experts.3.linear_fc1.weight"]
    names = [f"model.layers.1.block_sparse_moe.experts.3.{w}.weight" for w in ("w1", "w3")]
    assert (rule.expert, rule.layout, list(rule.huggingface)) == (3, "gate_up", names)
    assert rules["decoder.layers.1.mlp.router.weight"].expert is None
    marked = [rule for rule in rules.values() if rule.expert is not None]
    assert len(marked) == 2 * 2 * 4  # layers, matrices, experts


def test_sandwich_norms_end_the_last_matrix_of_a_branch():
    rules = {rule.megatron: list(rule.huggingface) for rule in weight_rules(model_spec(GLM4))}
    layer, of_layer = "decoder.layers.1", "model.layers.1"
    assert rules[f"{layer}.self_attention.linear_proj.post_layernorm.weight"] == [
        f"{of_layer}.post_self_attn_layernorm.weight"
    ]
    assert rules[f"{layer}.mlp.linear_fc2.post_layernorm.weight"] == [
        f"{of_layer}.post_mlp_layernorm.weight"
    ]
    assert not model_spec(QWEN3).has_sandwich_norms


def test_neighbours_are_rotated_together_only_as_far_as_a_head_is_rotated():
    spec = model_spec(GLM4)
    assert (spec.rotary_dim, spec.interleaved_dim) == (16, 16)  # half of 32
    assert model_spec(QWEN3).interleaved_dim == 0


def test_a_mixture_is_read():
    moe = model_spec(QWEN3_MOE).moe
    assert (moe.num_experts, moe.experts_per_token, moe.ffn_size) == (4, 2, 32)
    assert moe.is_renormalised
    assert moe.layers == (True, True)
    moe = model_spec(MIXTRAL).moe
    assert (moe.num_experts, moe.experts_per_token, moe.ffn_size) == (4, 2, 96)
    assert moe.is_renormalised


def test_layers_of_a_mixture_may_be_dense():
    four = QWEN3_MOE | {"num_hidden_layers": 4}
    every_second = model_spec(four | {"decoder_sparse_step": 2}).moe
    assert every_second.layers == (False, True, False, True)
    but_the_last = model_spec(four | {"decoder_sparse_step": 2, "mlp_only_layers": [3]}).moe
    assert but_the_last.layers == (False, True, False, False)


def test_both_spellings_of_the_number_of_experts_are_read():
    renamed = {key: value for key, value in QWEN3_MOE.items() if key != "num_experts"}
    assert model_spec(renamed | {"num_local_experts": 4}).moe.num_experts == 4
    with pytest.raises(ModelError, match=r"num_experts and num_local_experts differ"):
        model_spec(QWEN3_MOE | {"num_local_experts": 8})


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (MISTRAL | {"sliding_window": 8}, (True, True)),
        (MIXTRAL | {"sliding_window": 8}, (True, True)),
        (QWEN3_MOE | {"use_sliding_window": True, "sliding_window": 8}, (True, True)),
        (QWEN2 | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, (0, 1)),
        (
            QWEN3
            | {
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (True, False),
        ),
    ],
)
def test_each_layer_slides_as_its_family_says(config, layers):
    window = model_spec(config).window
    assert window.size == 8
    assert window.layers == layers


@pytest.mark.parametrize(
    "config",
    [
        LLAMA,
        MISTRAL,
        QWEN3 | {"use_sliding_window": False, "sliding_window": 4096},
        QWEN2 | {"use_sliding_window": True, "sliding_window": None},
        QWEN2 | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        # As Qwen3-30B-A3B has it.
        QWEN3_MOE | {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 0},
    ],
)
def test_a_window_that_is_not_in_force_is_none(config):
    assert model_spec(config).window is None


def test_numbers_arrive_where_megatron_wants_them():
    spec = model_spec(QWEN3)
    assert (spec.num_layers, spec.hidden_size, spec.ffn_size) == (2, 64, 96)
    assert (spec.num_heads, spec.num_groups, spec.head_dim) == (4, 2, 32)
    assert (spec.vocab_size, spec.max_positions) == (128, 256)
    assert (spec.norm_eps, spec.rope_theta, spec.init_std) == (1e-6, 1e6, 0.02)
    assert spec.has_qk_norm
    assert not spec.has_qkv_bias
    assert (spec.window, spec.moe, spec.rope_scaling) == (None, None, None)
    assert not model_spec(MISTRAL).has_qk_norm
    assert model_spec(QWEN2).has_qkv_bias


def test_what_config_json_lacks_is_what_transformers_takes_it_for():
    def without(config, key):
        return {k: v for k, v in config.items() if k != key}

    assert model_spec(without(QWEN3, "head_dim")).head_dim == 128
    assert model_spec(without(MISTRAL, "sliding_window")).window.size == 4096
    assert model_spec(without(LLAMA, "rope_theta")).rope_theta == 10000
    assert model_spec(without(LLAMA, "num_key_value_heads")).num_groups == 4


@pytest.mark.parametrize("head_dim", [{}, {"head_dim": None}])
def test_a_head_dim_that_is_not_given_is_the_hidden_size_over_the_heads(head_dim):
    config = {key: value for key, value in MISTRAL.items() if key != "head_dim"} | head_dim
    assert model_spec(config).head_dim == 16  # 64 / 4


def test_both_spellings_of_rope_are_read():
    nested = {key: value for key, value in QWEN3.items() if key != "rope_theta"}
    nested["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    assert model_spec(nested).rope_theta == 5e5
    assert model_spec(QWEN3 | {"rope_theta": 5e5, "rope_scaling": None}).rope_theta == 5e5


def test_rope_scaling_is_read_in_the_spellings_of_every_version():
    older = model_spec(QWEN2 | {"rope_scaling": {"type": "yarn", "factor": 4.0}}).rope_scaling
    assert older == YarnScaling(
        factor=4.0,
        beta_fast=32.0,
        beta_slow=1.0,
        original_max_positions=256,  # not stated: the context as it is
        is_truncated=True,
        attention_factor=pytest.approx(1.138629),  # 0.1 ln 4 + 1
    )
    stated = {"factor": 4, "beta_fast": None, "attention_factor": 2, "mscale": 3, "truncate": False}
    nested = {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, **stated}}
    yarn = model_spec(QWEN3 | nested).rope_scaling
    assert (yarn.attention_factor, yarn.beta_fast, yarn.is_truncated) == (2.0, 32.0, False)
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert model_spec(LLAMA | {"rope_scaling": llama3}).rope_scaling == Llama3Scaling(
        factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8192
    )


LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}


def test_layers_that_slide_have_a_rotation_of_their_own():
    spec = model_spec(GEMMA3)
    assert (spec.window.size, spec.window.layers) == (8, (True, False))
    assert (spec.rope_theta, spec.local_rope_theta, spec.rope_scaling) == (1e6, 1e4, None)
    tables = {"full_attention": LINEAR, "sliding_attention": {"rope_theta": 2e4}}
    nested = model_spec(GEMMA3 | {"rope_parameters": tables})
    assert (nested.rope_theta, nested.local_rope_theta) == (5e5, 2e4)
    assert nested.rope_scaling == LinearScaling(factor=2.0)
    # Releases before transformers 5 scale the layers that do not slide.
    older = model_spec(GEMMA3 | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}})
    assert (older.rope_theta, older.local_rope_theta) == (1e6, 1e4)
    assert older.rope_scaling == LinearScaling(factor=2.0)
    plain = model_spec(GEMMA3 | {"layer_types": ["full_attention"] * 2})
    assert (plain.window, plain.local_rope_theta) == (None, None)


def test_what_gemma_scales_is_read():
    spec = model_spec(GEMMA3)
    assert (spec.embedding_scale, spec.query_pre_attn_scalar) == (8, 24)  # the root of 64
    assert spec.has_centred_norms and spec.has_sandwich_norms and spec.has_qk_norm
    assert (spec.activation, model_spec(QWEN3).activation) == ("gelu_tanh", "silu")


@every_family
def test_a_field_nobody_knows_is_refused(config):
    with pytest.raises(ModelError, match=r"fields not understood for \w+: clever = 1\. Each may"):
        model_spec(config | {"clever": 1})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            QWEN3 | {"num_experts": 8, "clever": 1},
            r"fields not understood for qwen3: clever = 1, num_experts = 8\.",
        ),
        (LLAMA | {"sliding_window": 8}, r"for llama: sliding_window = 8\."),
        (QWEN2 | {"attention_bias": True}, r"for qwen2: attention_bias = true\."),
        (
            {**QWEN3, "model_type": "gpt2"},
            "'gpt2' is not supported; known: llama, mistral, qwen2, qwen3, mixtral, qwen3_moe, "
            "qwen2_moe, glm4_moe, glm4, gemma3_text, deepseek_v2, deepseek_v3, "
            "gpt_oss$",
        ),
        (QWEN3 | {"hidden_act": "gelu"}, r"hidden_act 'gelu'"),
        (QWEN3 | {"attention_bias": True}, r"attention_bias = true"),
        (LLAMA | {"attention_bias": True}, r"attention_bias = true"),
        (LLAMA | {"mlp_bias": True}, r"mlp_bias = true"),
        (
            QWEN3 | {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
            r"layer_types has sliding_attention, but use_sliding_window is False",
        ),
        (QWEN3 | {"layer_types": ["full_attention"]}, r"1 entries for 2 layers"),
        (QWEN3 | {"layer_types": ["chunked_attention"] * 2}, r"not understood: chunked_attention"),
        (QWEN3 | {"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, r"'dynamic' is not"),
        (QWEN3 | {"rope_scaling": {"rope_type": "longrope"}}, r"'longrope' is not supported"),
        (
            QWEN3 | {"rope_scaling": {"rope_type": "yarn", "factor": 2, "low_freq_factor": 1}},
            r"fields of yarn rope scaling not understood: low_freq_factor$",
        ),
        (
            QWEN3 | {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}},
            r"partial_rotary_factor",
        ),
        (
            QWEN3
            | {"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"rope_type": "linear"}},
            r"rope_parameters and rope_scaling differ",
        ),
        (MIXTRAL | {"num_experts_per_tok": 1}, r"num_experts_per_tok = 1"),
        (QWEN3_MOE | {"shared_expert_intermediate_size": 8}, r"_expert_intermediate_size = 8\."),
        (QWEN3_MOE | {"mlp_only_layers": [0, 1]}, r"no layer is a mixture"),
        (QWEN2 | {"use_mrope": True}, r"use_mrope = true"),
        (QWEN3 | {"model_type": "gemma2"}, r"'gemma2' is not supported: Megatron has no softcapp"),
        ({"model_type": "gemma3"}, r"'gemma3' is not supported: beside its text part it has an im"),
        ({"model_type": "glm"}, r"'glm' is not supported: SGLang has no model of it"),
        (
            GEMMA3 | {"attn_logit_softcapping": 50.0},
            r"^attn_logit_softcapping = 50\.0 is not suppo",
        ),
        (GEMMA3 | {"final_logit_softcapping": 30.0}, r"^final_logit_softcapping = 30\.0 is not"),
        (GEMMA3 | {"use_bidirectional_attention": True}, r"use_bidirectional_attention = true"),
        (GEMMA3 | {"tie_word_embeddings": False}, r"^tie_word_embeddings = false .* SGLang"),
        (GEMMA3 | {"hidden_activation": "gelu"}, r"hidden_activation 'gelu' is not supported"),
        (GEMMA3 | {"attention_bias": True}, r"attention_bias = true"),
        (GEMMA3 | {"sliding_window": None}, r"layer_types has sliding_attention, but"),
        (GEMMA3 | {"rope_parameters": {"rope_theta": 1e4}}, r"^rope_parameters must have a table"),
        (
            GEMMA3 | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            r"yarn rope scaling in this family is not supported",
        ),
        (
            GEMMA3 | {"rope_parameters": {"sliding_attention": LINEAR}},
            r"rope scaling of layers with sliding_attention is not supported",
        ),
        (
            GEMMA3 | {"rope_parameters": {"full_attention": LINEAR | {"factor": "2"}}},
            r'^rope_parameters\.full_attention\.factor \("2"\) must be a number > 0',
        ),
    ],
)
def test_what_is_not_understood_is_refused_by_name(config, message):
    with pytest.raises(ModelError, match=message):
        model_spec(config)


SIZES = sorted(set(QWEN3) - set(IMPLIED) - {"head_dim"})


@pytest.mark.parametrize("key", SIZES)
def test_a_missing_size_is_named_with_its_file(key, tmp_path):
    config = {k: v for k, v in QWEN3.items() if k != key}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"config\.json: field '{key}' is missing"):
        read_model_spec(tmp_path)


def test_a_config_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json: cannot be read: No such file"):
        read_model_spec(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: not valid JSON"):
        read_model_spec(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff")
    with pytest.raises(ModelError, match=r"config\.json: not valid JSON"):
        read_model_spec(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json: must hold a JSON object, got list"):
        read_model_spec(tmp_path)
