"""Mixtures with shared experts and sigmoid scores: what is read, and what is refused."""

import pytest

from megatron_rl.conversion.families import float32_tensors, model_spec, weight_rules
from megatron_rl.conversion.families.shapes import check_tensors, tensor_shapes
from megatron_rl.errors import ModelError
from megatron_rl.model_spec import SharedExpert, SigmoidRouting
from tests.unit.conversion.family_configs import GLM4_MOE, QWEN2_MOE, QWEN3_MOE


def test_a_shared_expert_has_a_size_of_its_own_or_that_of_several_others():
    assert model_spec(QWEN2_MOE).moe.shared == SharedExpert(ffn_size=48, has_gate=True)
    two = model_spec(GLM4_MOE | {"n_shared_experts": 2}).moe.shared
    assert two == SharedExpert(ffn_size=2 * 32, has_gate=False)
    assert model_spec(QWEN3_MOE).moe.shared is None


def test_sigmoid_scores_are_scaled_and_chosen_by_group():
    changes = {"n_group": 2, "topk_group": 1}
    routing = model_spec(GLM4_MOE | changes).moe.routing
    assert routing == SigmoidRouting(scale=2.5, num_groups=2, groups_per_token=1)
    assert model_spec(QWEN2_MOE).moe.routing is None


def test_the_first_layers_may_be_dense():
    three = GLM4_MOE | {"num_hidden_layers": 3, "first_k_dense_replace": 2}
    assert model_spec(three).moe.layers == (False, False, True)


def test_half_a_head_is_rotated_unless_the_config_says_otherwise():
    assert model_spec(GLM4_MOE).rotary_dim == 16
    stated = {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}}
    assert model_spec(GLM4_MOE | stated).rotary_dim == 8
    assert model_spec(QWEN2_MOE).rotary_dim == 32


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (GLM4_MOE | {"norm_topk_prob": False}, "norm_topk_prob = false with sigmoid scores"),
        (
            GLM4_MOE | {"n_group": 2, "topk_group": 2},
            r"num_experts_per_tok \(2\) must be 2 \* topk_group \(2\)",
        ),
        (GLM4_MOE | {"n_shared_experts": 0}, r"n_shared_experts \(0\) must be > 0"),
        (GLM4_MOE | {"first_k_dense_replace": 2}, "no layer is a mixture of experts"),
        (
            GLM4_MOE | {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            r"linear rope scaling with partial_rotary_factor 0\.5 is not supported",
        ),
        (QWEN2_MOE | {"use_sliding_window": True, "sliding_window": 8}, "without layer_types"),
        (QWEN2_MOE | {"num_local_experts": 9}, "num_experts and num_local_experts differ"),
        (QWEN3_MOE | {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_what_megatron_does_not_have_is_refused(config, complaint):
    with pytest.raises(ModelError, match=complaint):
        model_spec(config)


def test_the_bias_that_chooses_experts_is_float32_whatever_the_weights_are():
    spec = model_spec(GLM4_MOE)
    names = {f"model.layers.{i}.mlp.gate.e_score_correction_bias" for i in range(2)}
    assert float32_tensors(spec) == names
    assert {rule.megatron for rule in weight_rules(spec) if rule.is_float32} == {
        f"decoder.layers.{i}.mlp.router.expert_bias" for i in range(2)
    }
    assert not float32_tensors(model_spec(QWEN2_MOE))


def test_layers_that_draft_tokens_are_passed_over_as_many_as_are_stated():
    spec = model_spec(GLM4_MOE | {"num_nextn_predict_layers": 1})
    shapes = dict(tensor_shapes(spec))
    check_tensors(spec, shapes | {"model.layers.2.eh_proj.weight": (64, 128)})
    with pytest.raises(ModelError, match=r"model\.layers\.3\.eh_proj\.weight .* has no place"):
        check_tensors(spec, shapes | {"model.layers.3.eh_proj.weight": (64, 128)})
