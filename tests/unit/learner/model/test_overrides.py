"""Fields of Megatron's configuration that a user may set, and those that he may not."""

import pytest
import torch

from megatron_rl.conversion.families import model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.learner.model.gpt_model import transformer_config
from megatron_rl.learner.model.overrides import check_overrides
from megatron_rl.parallelism.layouts import Layout
from tests.distributed.tiny_policy import CONFIG

ALONE = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)


@pytest.mark.parametrize(
    "field",
    [
        "overlap_p2p_comm",
        "batch_p2p_comm",
        "variable_seq_lengths",
        "calculate_per_token_loss",
        "params_dtype",
        "fp16",
        "fp8_recipe",
        "fp8_param",
        "context_parallel_size",
        "add_bias_linear",
        "activation_func",
        "rotary_interleaved",
        "layernorm_zero_centered_gamma",
        "moe_router_score_function",
        "moe_router_topk_scaling_factor",
        "moe_grouped_gemm",
        "pipeline_model_parallel_layout",
        "bias_activation_fusion",
    ],
)
def test_what_the_learner_relies_on_cannot_be_overridden(field):
    with pytest.raises(ConfigError, match=rf"learner\.megatron\.{field} is set by "):
        check_overrides({field: True})


@pytest.mark.parametrize(
    "field",
    [
        "hidden_dropout",
        "attention_dropout",
        "mtp_num_layers",
        "moe_token_dropping",
        # Defined within one microbatch and weighed by its tokens: packing would change the loss.
        "moe_aux_loss_coeff",
        "moe_router_load_balancing_type",
        "moe_z_loss_coeff",
    ],
)
def test_what_would_change_the_policy_or_its_loss_is_not_offered(field):
    with pytest.raises(
        ConfigError, match=rf"learner\.megatron\.{field} is not offered: .*remove it"
    ):
        check_overrides({field: 0.1})


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("recompute_num_layers", "one", "valid integer"),
        ("recompute_granularity", "ful", "'full' or 'selective'"),
        ("cpu_offloading", "yes", "valid boolean"),
        ("recompute_modules", "moe_act", "valid list"),
        ("attention_backend", "flush", "'flash', 'fused'"),
    ],
)
def test_a_value_of_another_type_is_refused(field, value, reason):
    with pytest.raises(ConfigError, match=rf"learner\.megatron\.{field} = '{value}': .*{reason}"):
        check_overrides({field: value})


def test_a_suggestion_is_one_that_would_be_taken():
    with pytest.raises(ConfigError) as caught:
        check_overrides({"attention_dropuot": 0.1})
    assert "attention_dropout" not in str(caught.value)


def test_what_speeds_up_or_saves_memory_is_taken():
    overrides = {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
        "cp_comm_type": "a2a",
    }
    check_overrides(overrides)
    config = transformer_config(
        model_spec(CONFIG), ALONE, dtype=torch.float32, overrides={"cpu_offloading": False}
    )
    assert config.bias_activation_fusion


def test_a_member_of_an_enumeration_is_given_by_its_name():
    overrides = {"attention_backend": "flash"}
    check_overrides(overrides)
    config = transformer_config(model_spec(CONFIG), ALONE, dtype=torch.float32, overrides=overrides)
    assert config.attention_backend.name == "flash"


@pytest.mark.parametrize(
    "overrides",
    [
        {"recompute_granularity": "full"},  # with no method
        {"recompute_granularity": "full", "recompute_method": "uniform"},  # with no layers
        {"moe_token_dispatcher_type": "allgather"},
    ],
)
def test_values_that_do_not_go_together_are_refused(overrides):
    with pytest.raises(ConfigError, match="TransformerConfig refuses: "):
        transformer_config(model_spec(CONFIG), ALONE, dtype=torch.float32, overrides=overrides)
