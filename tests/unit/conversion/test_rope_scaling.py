"""RoPE scaling of a run: the table it makes of a config.json, and models that cannot be scaled."""

import json

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from megatron_rl.config import RopeScalingConfig
from megatron_rl.conversion.families import (
    model_spec,
    read_model_spec,
    read_scaled_fields,
    read_served_fields,
)
from megatron_rl.conversion.rope import inverse_frequencies, softmax_scale
from megatron_rl.errors import ConfigError
from megatron_rl.hf_folder import copy_companions
from megatron_rl.model_spec import Llama3Scaling, YarnScaling
from tests.tiny_models import BASE, CASES

QWEN3 = {
    "model_type": "qwen3",
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 61,
    "max_position_embeddings": 128,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}
LLAMA_31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 2.0,
    "high_freq_factor": 5.0,
    "original_max_position_embeddings": 16,
}


def folder_of(tmp_path, **fields):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3 | fields))
    return folder


def scaling(kind="yarn", factor=4.0, **keys):
    return RopeScalingConfig(type=kind, factor=factor, **keys)


def export(folder, target, wanted):
    """Write the folder as a run with this scaling exports it."""
    target.mkdir()
    copy_companions(folder, target, read_scaled_fields(folder, wanted))
    return target


SIZES = {**BASE, "hidden_size": 64, "max_position_embeddings": 131072}
SCALABLE = ["llama", "mistral", "qwen2", "qwen3", "qwen3 moe", "qwen2 moe", "gpt oss moe"]


@pytest.mark.parametrize("kind", ["yarn", "llama3"])
@pytest.mark.parametrize("case", SCALABLE)
def test_the_learner_turns_as_transformers_reads_the_export(case, kind, tmp_path):
    if case == "gpt oss moe" and kind == "llama3":
        pytest.skip("gpt-oss is made with YaRN")
    prefix, fields = CASES[case]
    model = tmp_path / "model"
    wanted = scaling(kind, factor=64.0)
    getattr(transformers, f"{prefix}Config")(**SIZES | fields).save_pretrained(model)
    spec = read_model_spec(model, wanted)
    exported = export(model, tmp_path / "hf", wanted)
    theirs = transformers.AutoConfig.from_pretrained(exported)
    expected, factor = ROPE_INIT_FUNCTIONS[kind](theirs)
    mine = inverse_frequencies(spec.rope_scaling, head_dim=16, theta=spec.rope_theta)
    assert torch.equal(mine, expected)
    assert softmax_scale(spec.rope_scaling, head_dim=16) == pytest.approx(factor**2 / 4)
    assert theirs.max_position_embeddings == spec.max_positions
    # The export is the model: what reads it needs no setting, and with the setting it is the same.
    assert read_model_spec(exported) == spec == read_model_spec(exported, wanted)
    served = read_served_fields(model, wanted)
    assert served["rope_scaling"] == served["rope_parameters"]
    # What the first leaves out is what absent fields mean.
    for told in (theirs.rope_parameters, read_served_fields(exported, wanted)["rope_scaling"]):
        assert served["rope_scaling"].items() <= told.items()


@pytest.mark.parametrize(
    ("spelling", "changed"),
    [
        ({}, {"rope_scaling"}),
        ({"rope_scaling": None, "model_max_length": 128}, {"rope_scaling", "model_max_length"}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, {"rope_parameters"}),
    ],
)
def test_config_json_keeps_its_spelling_and_every_other_field(spelling, changed, tmp_path):
    folder = folder_of(tmp_path, **spelling)
    exported = export(folder, tmp_path / "hf", scaling(beta_fast=16.0))
    before, after = (json.loads((f / "config.json").read_text()) for f in (folder, exported))
    differing = {key for key in after if key not in before or after[key] != before[key]}
    assert differing == changed | {"max_position_embeddings"}
    assert after["max_position_embeddings"] == 512  # 4 times 128
    assert after.get("model_max_length", 512) == 512  # servers look there first
    (spelled,) = changed - {"model_max_length"}
    # Theta is in the table of transformers 5, and beside that of transformers 4.
    theta = {"rope_theta": 1e6} if spelled == "rope_parameters" else {}
    assert after[spelled] == theta | {
        "rope_type": "yarn",
        "factor": 4.0,
        "beta_fast": 16.0,
        "original_max_position_embeddings": 128,
    }
    theirs = transformers.AutoConfig.from_pretrained(exported)
    assert theirs.rope_parameters == after[spelled] | {"rope_theta": 1e6}


def test_without_a_scaling_nothing_changes(tmp_path):
    folder = folder_of(tmp_path)
    assert read_model_spec(folder, None) == model_spec(QWEN3)


def test_a_scaling_of_the_same_kind_is_replaced_and_the_rest_of_it_kept(tmp_path):
    folder = folder_of(tmp_path, rope_scaling=LLAMA_31)
    spec = read_model_spec(folder, scaling("llama3", 32.0, high_freq_factor=6.0))
    assert spec.rope_scaling == Llama3Scaling(
        factor=32.0, low_freq_factor=2.0, high_freq_factor=6.0, original_max_positions=16
    )
    assert spec.max_positions == 512  # 32 times 16


def test_positions_that_a_release_has_beyond_its_factor_stay(tmp_path):
    # Like Llama 3.1: 8 times 16 is 128, and it was trained on 256.
    folder = folder_of(tmp_path, rope_scaling=LLAMA_31, max_position_embeddings=256)
    assert read_model_spec(folder, scaling("llama3", 9.0)).max_positions == 256
    assert read_model_spec(folder, scaling("llama3", 32.0)).max_positions == 512
    assert read_model_spec(folder, scaling("llama3", 4.0)).max_positions == 64


def test_original_positions_may_be_fewer_than_those_of_config_json(tmp_path):
    # Qwen3 has max_position_embeddings 40960, of which its YaRN takes 32768.
    wanted = scaling(original_max_position_embeddings=96, mscale=2.0, mscale_all_dim=1.0)
    spec = read_model_spec(folder_of(tmp_path), wanted)
    assert spec.max_positions == 384
    assert isinstance(spec.rope_scaling, YarnScaling)
    # (0.1 * 2 ln 4 + 1) / (0.1 ln 4 + 1) = 1.277259 / 1.138629
    assert spec.rope_scaling.attention_factor == pytest.approx(1.277259 / 1.138629, rel=1e-6)


STATED_FACTOR = {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5}


@pytest.mark.parametrize(
    ("fields", "wanted", "message"),
    [
        (
            {},
            scaling(original_max_position_embeddings=129),
            "model.rope_scaling.original_max_position_embeddings (129) must be <= "
            "max_position_embeddings of the model (128); remove the key to use the model's own",
        ),
        (
            {"rope_scaling": LLAMA_31},
            scaling(),
            'model.rope_scaling.type ("yarn") must be the scaling that the model was trained with, '
            'which is "llama3" in config.json',
        ),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            scaling("llama3"),
            'which is "linear" in config.json',
        ),
        (
            {"rope_scaling": STATED_FACTOR},
            scaling(),
            "model.rope_scaling.mscale must be given, with mscale_all_dim: config.json has an "
            "attention factor of its own (1.5 with factor 2)",
        ),
        (
            {},
            scaling("llama3", low_freq_factor=4.0),
            "model.rope_scaling.low_freq_factor (4) must be < high_freq_factor (4): between them "
            "dimensions are scaled in part",
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_slow": 40.0}},
            scaling(beta_fast=20.0),
            "model.rope_scaling.beta_slow (40) must be < beta_fast (20)",
        ),
    ],
)
def test_a_scaling_that_does_not_suit_the_model_is_refused(fields, wanted, message, tmp_path):
    folder = folder_of(tmp_path, **fields)
    for read in (read_model_spec, read_scaled_fields, read_served_fields):
        with pytest.raises(ConfigError) as caught:
            read(folder, wanted)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("gemma3", "its layers have two rotations"),
        ("glm4", "only a part of each head is rotated"),
        ("glm4 moe", "only a part of each head is rotated"),
        ("deepseek v3 moe", "latent attention is scaled by its own rule"),
        ("mixtral", "SGLang has no scaling in its model of this family"),
    ],
)
def test_families_that_cannot_be_scaled_are_refused_with_the_reason(case, reason, tmp_path):
    prefix, fields = CASES[case]
    getattr(transformers, f"{prefix}Config")(**BASE | fields).save_pretrained(tmp_path)
    with pytest.raises(ConfigError) as caught:
        read_model_spec(tmp_path, scaling())
    assert reason in str(caught.value)
    assert str(caught.value).endswith("remove [model.rope_scaling]")
