"""Quantised servers of a configuration: what cannot work is refused by its name, with a remedy."""

import json
from pathlib import Path

import pytest

from megatron_rl.config import RopeScalingConfig, resolve
from megatron_rl.conversion.families import model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.placement.cluster import planned_nodes
from megatron_rl.placement.roles import plan_roles
from megatron_rl.programs.builders.server import config_overrides
from megatron_rl.programs.checks.planned_servers import check_planned_servers
from megatron_rl.programs.checks.quantized_servers import (
    check_quantized_servers,
    check_quantizing_device,
)
from megatron_rl.programs.slurm_job.plan_text import describe_plan
from tests.unit.conversion.family_configs import DEEPSEEK_V3, GPT_OSS, LLAMA, MISTRAL, QWEN3

RELEASED = Path(__file__).parents[3] / "released"
QWEN_30B = json.loads((RELEASED / "Qwen3-30B-A3B/config.json").read_text())
DENSE = QWEN3 | {
    **{"hidden_size": 4096, "intermediate_size": 12288, "head_dim": 128},
    **{"num_attention_heads": 32, "num_key_value_heads": 8},
}


def run_of(**generators):
    return resolve(
        {
            "run_dir": "run",
            "num_steps": 1,
            "model": {"path": str(RELEASED / "Qwen3-30B-A3B")},
            "data": {"train": "train.jsonl"},
            "learner": {"num_processes": 16, "parallel": {"tp": 4, "sp": True, "ep": 4, "etp": 1}},
            "generators": generators,
            "launch": {"nodes": 3, "gpu_memory_gb": 79.6},
        }
    )


def test_a_servers_overrides_hold_rope_scaling_and_quantisation_together():
    config = run_of(quantization="block_fp8")
    scaling = RopeScalingConfig(type="yarn", factor=4.0, original_max_position_embeddings=32768)
    model = config.model.model_copy(update={"rope_scaling": scaling})
    config = config.model_copy(update={"model": model})
    found = config_overrides(config, has_weights=False)
    assert found["quantization_config"]["quant_method"] == "fp8"
    assert found["rope_scaling"]["factor"] == 4.0
    assert found["max_position_embeddings"] == 4 * 32768
    # Weights that are served as a folder has them are not quantised, but positions are the run's.
    served = config_overrides(config, has_weights=True)
    assert served == {key: found[key] for key in found if key != "quantization_config"}
    assert config_overrides(run_of(), has_weights=False) == {}


def refusal(config, model) -> str:
    with pytest.raises(ConfigError) as caught:
        check_quantized_servers(config, model_spec(model))
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("quantization", method) for method in ("fp8", "mxfp4", "modelopt", "gptq_marlin")),
        ("modelopt-quant", "fp8"),
        ("torchao-config", "int4wo-128"),
        ("json-model-override-args", '{"quantization_config": {"quant_method": "fp8"}}'),
        ("json_model_override_args", {"quantization_config": {"quant_method": "awq"}}),
    ],
)
def test_weights_that_a_server_quantises_by_itself_are_refused_under_a_learner(key, value):
    message = refusal(run_of(sglang={key: value}), QWEN_30B)
    assert message.startswith(f"generators.sglang.{key} ({value!r}) cannot be used with a learner")
    assert 'generators.quantization = "block_fp8"' in message
    with pytest.raises(ConfigError, match="cannot be used with a learner"):
        describe_plan(run_of(tp=2, sglang={key: value}))


def test_other_flags_and_overrides_are_none_of_its_business():
    overrides = {"tie_word_embeddings": False}
    flags = {"kv-cache-dtype": "fp8_e4m3", "json-model-override-args": overrides}
    check_quantized_servers(run_of(sglang=flags), model_spec(QWEN_30B))


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (DEEPSEEK_V3, "latent attention"),
        (GPT_OSS, "one tensor"),
        (LLAMA, "leaves the scales of blocks out"),
        (MISTRAL, "leaves the scales of blocks out"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else None,
)
def test_families_that_sglang_does_not_serve_so_are_refused(model, why):
    check_quantized_servers(run_of(), model_spec(model))
    message = refusal(run_of(quantization="block_fp8"), model)
    assert why in message and message.endswith('set generators.quantization = "none"')


@pytest.mark.parametrize(
    ("changes", "tp", "broken"),
    [
        ({}, 8, None),
        ({}, 16, None),  # half a head of keys would be copied, whole
        ({}, 64, "a rank's rows of queries (64)"),
        ({"intermediate_size": 11008}, 8, "a rank's part of the ffn size (1376)"),
        ({"hidden_size": 4000}, 1, "the hidden size (4000)"),
        ({"head_dim": 64}, 8, "a rank's rows of keys (64)"),
        ({"head_dim": 64}, 4, None),
    ],
)
def test_sizes_that_sglang_does_not_cut_between_blocks_are_refused(changes, tp, broken):
    config = run_of(quantization="block_fp8", tp=tp)
    if broken is None:
        check_quantized_servers(config, model_spec(DENSE | changes))
    else:
        message = refusal(config, DENSE | changes)
        assert f"multiples of 128 in {broken}" in message and "generators.tp" in message


def test_experts_are_cut_over_the_ranks_that_share_one():
    # 768 / 4 = 192 is one block and a half; over two of the four ranks it is three.
    message = refusal(run_of(quantization="block_fp8", tp=4), QWEN_30B)
    assert "a rank's part of the experts' ffn size (192)" in message
    flags = {"ep-size": 2}
    check_quantized_servers(
        run_of(quantization="block_fp8", tp=4, sglang=flags), model_spec(QWEN_30B)
    )


@pytest.mark.parametrize(
    ("capability", "why"),
    [
        (None, "packs FP8 weights for AMX"),
        ((8, 0), "repacks FP8 weights for Marlin"),
        ((8, 6), "repacks FP8 weights for Marlin"),
        ((10, 0), "UE8M0"),
        ((12, 0), "UE8M0"),
    ],
)
def test_devices_on_which_sglang_changes_the_weights_are_refused(capability, why):
    check_quantizing_device(run_of(), capability)
    with pytest.raises(ConfigError, match=why):
        check_quantizing_device(run_of(quantization="block_fp8"), capability)


@pytest.mark.parametrize("capability", [(8, 9), (9, 0)])
def test_ada_and_hopper_serve_block_fp8(capability):
    check_quantizing_device(run_of(quantization="block_fp8"), capability)


def test_servers_of_a_job_on_cpus_are_refused_before_there_is_a_node():
    config = run_of(quantization="block_fp8", tp=2, sglang={"device": "cpu"})
    roles = plan_roles(config, planned_nodes(config))
    with pytest.raises(ConfigError, match="on a CPU"):
        check_planned_servers(config, model_spec(QWEN_30B), roles)


def test_a_plan_counts_half_of_the_bytes_for_memory_and_for_an_update():
    def lines(**generators):
        text = describe_plan(run_of(tp=2, **generators))
        (server,) = [line for line in text.splitlines() if line.startswith("a server")]
        (update,) = [line for line in text.splitlines() if line.startswith("weights")]
        return (
            float(server.partition("weights ")[2].partition(" of")[0]),
            float(update.partition("broadcast, ")[2].partition(" GB")[0]),
            update,
        )

    plain, quantised = lines(), lines(quantization="block_fp8")
    # Embedding and output layer, 2 x 151,936 x 2048 of 30.5 G elements, keep 16 bits; a scale is
    # 4 bytes for 16,384 elements: (0.98 * 1.00024 + 0.02 * 2) / 2 = 0.51.
    assert quantised[0] / plain[0] == pytest.approx(0.51, abs=0.005)
    assert quantised[1] / plain[1] == pytest.approx(0.51, abs=0.005)
    assert quantised[2].endswith("in block FP8") and not plain[2].endswith("in block FP8")
