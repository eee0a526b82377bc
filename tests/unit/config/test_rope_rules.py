"""Keys of [model.rope_scaling] and of servers' overrides: what breaks a rule, by its name."""

import json

import pytest

from megatron_rl.config import RopeScalingConfig, resolve
from megatron_rl.errors import ConfigError


def run_of(scaling=None, **sglang):
    model = {"path": "model"} | ({} if scaling is None else {"rope_scaling": scaling})
    return resolve(
        {
            "run_dir": "run",
            "num_steps": 1,
            "model": model,
            "data": {"train": "train.jsonl"},
            "generators": {"sglang": sglang},
        }
    )


def refusal(scaling=None, **sglang) -> str:
    with pytest.raises(ConfigError) as caught:
        run_of(scaling, **sglang)
    return str(caught.value)


def test_only_what_a_run_states_goes_into_the_table():
    config = run_of({"type": "yarn", "factor": 4, "beta_fast": 16.0})
    assert config.model.rope_scaling == RopeScalingConfig(type="yarn", factor=4.0, beta_fast=16.0)
    assert config.model.rope_scaling.stated() == {"factor": 4.0, "beta_fast": 16.0}
    assert run_of().model.rope_scaling is None


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"type": "linear", "factor": 2.0}, "model.rope_scaling.type"),
        ({"type": "yarn", "factor": 1.0}, "model.rope_scaling.factor"),
        ({"type": "yarn"}, "model.rope_scaling.factor"),
        (
            {"type": "yarn", "factor": 2.0, "low_freq_factor": 1.0},
            'model.rope_scaling.low_freq_factor (1.0) is for model.rope_scaling.type = "llama3", '
            'which is "yarn" here; remove it',
        ),
        (
            {"type": "llama3", "factor": 2.0, "beta_fast": 32.0},
            'model.rope_scaling.beta_fast (32.0) is for model.rope_scaling.type = "yarn", which is '
            '"llama3" here; remove it',
        ),
        (
            {"type": "yarn", "factor": 2.0, "mscale": 1.0},
            "model.rope_scaling.mscale (1.0) and mscale_all_dim (None) must be given together: one "
            "alone is passed over; give both, or remove both",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_refused(scaling, message):
    assert message in refusal(scaling)


@pytest.mark.parametrize("scaling", [None, {"type": "yarn", "factor": 2.0}])
@pytest.mark.parametrize(
    "name", ["rope_scaling", "rope_parameters", "rope_theta", "max_position_embeddings"]
)
@pytest.mark.parametrize("as_text", [True, False])
def test_servers_get_no_other_positions_by_a_flag(scaling, name, as_text):
    table = {name: 1, "num_nextn_predict_layers": 0}
    message = refusal(scaling, json_model_override_args=json.dumps(table) if as_text else table)
    assert message.startswith(f"generators.sglang.json_model_override_args must not set {name}: ")
    assert "set model.rope_scaling" in message


def test_other_overrides_of_servers_are_the_users():
    run_of(**{"json-model-override-args": '{"num_nextn_predict_layers": 0}'})
