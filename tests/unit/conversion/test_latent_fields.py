"""Latent attention: what is read, and what Megatron lacks or servers read in another way."""

import pytest

from megatron_rl.conversion.families import model_spec, weight_rules
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.errors import ModelError
from megatron_rl.model_spec import LatentAttention
from tests.unit.conversion.family_configs import DEEPSEEK_V2, DEEPSEEK_V3, GLM4_MOE

YARN = {"rope_type": "yarn", "factor": 40.0, "mscale": 0.7, "mscale_all_dim": 0.7}


def scaled(**changes):
    table = {key: value for key, value in (YARN | changes).items() if value is not None}
    return DEEPSEEK_V3 | {"rope_scaling": table}


def test_sizes_arrive_where_megatron_wants_them():
    spec = model_spec(DEEPSEEK_V3)
    assert (spec.head_dim, spec.rotary_dim, spec.value_dim) == (32, 12, 16)  # 20 + 12
    assert spec.latent == LatentAttention(query_rank=18, kv_rank=24, value_dim=16, mscale=0.0)
    assert model_spec(DEEPSEEK_V2).latent.query_rank is None
    assert model_spec(GLM4_MOE).latent is None
    assert model_spec(GLM4_MOE).value_dim == 32


def test_yarn_scales_scores_and_leaves_rotated_dimensions_as_they_are():
    spec = model_spec(scaled())
    assert spec.latent.mscale == 0.7
    assert spec.rope_scaling.attention_factor == 1


def test_sizes_that_transformers_writes_down_as_well_may_be_there():
    derived = {"head_dim": 12, "qk_head_dim": 32, "num_key_value_heads": None}
    assert model_spec(DEEPSEEK_V3 | derived) == model_spec(DEEPSEEK_V3)


def test_code_of_the_release_that_computes_the_same_is_passed_over():
    own = {
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModel": "modeling_deepseek.DeepseekV3Model",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM",
    }
    assert model_spec(DEEPSEEK_V3 | {"auto_map": own}) == model_spec(DEEPSEEK_V3)
    with pytest.raises(ModelError, match="auto_map"):
        model_spec(DEEPSEEK_V3 | {"auto_map": own | {"AutoModel": "modeling_mine.Model"}})


def test_projections_down_are_whole_on_every_rank_and_those_up_are_cut():
    layouts = {
        rule.megatron.removeprefix("decoder.layers.0.self_attention."): rule.layout
        for rule in weight_rules(model_spec(DEEPSEEK_V3))
        if "layers.0.self_attention" in rule.megatron
    }
    assert layouts == {
        "linear_q_down_proj.weight": "replicated",
        "linear_q_up_proj.layer_norm_weight": "replicated",
        "linear_q_up_proj.weight": "column",
        "linear_kv_down_proj.weight": "replicated",
        "linear_kv_up_proj.layer_norm_weight": "replicated",
        "linear_kv_up_proj.weight": "column",
        "linear_proj.weight": "row",
    }


def test_what_servers_load_together_is_published_together():
    """See ``weight_sync.bucketing``: apart, SGLang loads neither, and says nothing."""
    for config in (DEEPSEEK_V2 | {"q_lora_rank": 18}, DEEPSEEK_V3):
        names = [name for rule in weight_rules(model_spec(config)) for name in rule.huggingface]
        for layer in range(2):
            first = names.index(f"model.layers.{layer}.self_attn.q_a_proj.weight")
            assert names[first + 1] == f"model.layers.{layer}.self_attn.kv_a_proj_with_mqa.weight"


def test_shapes_by_hand():
    shapes = {
        name.rpartition("self_attn.")[2]: shape
        for name, shape in tensor_shapes(model_spec(DEEPSEEK_V3))
        if "layers.1.self_attn" in name
    }
    assert shapes == {
        "q_a_proj.weight": (18, 64),
        "q_a_layernorm.weight": (18,),
        "q_b_proj.weight": (4 * 32, 18),
        "kv_a_proj_with_mqa.weight": (24 + 12, 64),
        "kv_a_layernorm.weight": (24,),
        "kv_b_proj.weight": (4 * (20 + 16), 24),
        "o_proj.weight": (64, 4 * 16),
    }
    plain = dict(tensor_shapes(model_spec(DEEPSEEK_V2)))
    assert plain["model.layers.1.self_attn.q_proj.weight"] == (4 * 32, 64)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (DEEPSEEK_V3 | {"num_key_value_heads": 2}, r"num_key_value_heads \(2\) must be num_atten"),
        (DEEPSEEK_V3 | {"head_dim": 16}, r"head_dim \(16\) must be 12, which follows from"),
        (DEEPSEEK_V3 | {"qk_head_dim": 16}, r"qk_head_dim \(16\) must be 32, which follows from"),
        (DEEPSEEK_V3 | {"qk_rope_head_dim": 11}, r"qk_rope_head_dim \(11\) must be even"),
        (DEEPSEEK_V3 | {"rope_interleave": False}, r"for deepseek_v3: rope_interleave = false"),
        (DEEPSEEK_V3 | {"scoring_func": "softmax"}, r"for deepseek_v3: scoring_func = "),
        (DEEPSEEK_V3 | {"topk_method": "greedy"}, r"for deepseek_v3: topk_method = "),
        (DEEPSEEK_V3 | {"moe_layer_freq": 2}, r"for deepseek_v3: moe_layer_freq = 2"),
        (DEEPSEEK_V3 | {"index_topk": 2048}, r"for deepseek_v3: index_topk = 2048"),
        (DEEPSEEK_V3 | {"attention_bias": True}, r"attention_bias = true"),
        (DEEPSEEK_V3 | {"norm_topk_prob": False}, r"norm_topk_prob = false with sigmoid scores"),
        (
            DEEPSEEK_V3 | {"n_group": 2, "topk_group": 2},
            r"num_experts_per_tok \(2\) must be 2 \* topk_group \(2\)",
        ),
        (DEEPSEEK_V2 | {"norm_topk_prob": True}, r"norm_topk_prob = true is not supported in this"),
        (
            DEEPSEEK_V2 | {"n_group": 2, "topk_method": "group_limited_greedy"},
            r"topk_method 'group_limited_greedy' with n_group \(2\) is not supported, only 'gree",
        ),
        (DEEPSEEK_V2 | {"n_group": 2}, r"topk_method 'greedy' with n_group \(2\) is not supported"),
        (
            DEEPSEEK_V3 | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            r"rope_type 'linear' with latent attention is not supported: servers compute YaRN",
        ),
        (scaled(truncate=False), r"truncate of yarn rope scaling with latent attention is not"),
        (scaled(attention_factor=1.2), r"attention_factor of yarn rope scaling with latent"),
        (
            scaled(mscale=1.0),
            r"mscale \(1\.0\) of yarn .* must be > 0 and equal mscale_all_dim \(0\.7",
        ),
        (scaled(mscale=None, mscale_all_dim=None), r"mscale \(None\) of yarn rope scaling"),
    ],
)
def test_what_differs_between_megatron_transformers_and_servers_is_refused(config, complaint):
    with pytest.raises(ModelError, match=complaint):
        model_spec(config)


@pytest.mark.parametrize("key", ["kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "v_head_dim"])
def test_a_size_of_latents_is_never_implied(key):
    with pytest.raises(KeyError, match=key):
        model_spec({name: value for name, value in DEEPSEEK_V3.items() if name != key})
