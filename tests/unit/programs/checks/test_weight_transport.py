"""Weight transport of a configuration: which way it takes, and the bytes into a server rank."""

from pathlib import Path

import pytest

from megatron_rl.config import WeightsConfig, resolve
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.parallelism.parameters import num_parameters
from megatron_rl.programs.checks.weight_transport import (
    check_weight_transport,
    describe_weight_transport,
)

MODEL = Path(__file__).parents[3] / "released/Mistral-Small-24B"
SPEC = read_model_spec(MODEL)


def line(*, on_cpu: bool, tp: int = 2, **weights) -> str:
    config = resolve(
        {
            "run_dir": "run",
            "num_steps": 1,
            "model": {"path": str(MODEL)},
            "data": {"train": "train.jsonl"},
            "generators": {"tp": tp},
            "weights": weights,
        }
    )
    return describe_weight_transport(config, SPEC, on_cpu=on_cpu)


def test_a_server_rank_receives_the_whole_model_by_broadcast_and_its_part_by_shards():
    whole = 2 * num_parameters(SPEC) / 1e9
    assert f"broadcast, {whole:.2f} GB into each of the 2 ranks" in line(on_cpu=False)
    shards = line(on_cpu=True)
    size = float(shards.partition("shards, ")[2].partition(" GB")[0])
    # Norms are whole on both.
    assert size == pytest.approx(whole / 2, rel=0.01)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_what_is_asked_for_goes_before_what_would_be_chosen(on_cpu):
    assert "by shards" in line(on_cpu=on_cpu, transport="shards")
    assert "by broadcast" in line(on_cpu=on_cpu, transport="collective")
    assert "through a folder" in line(on_cpu=on_cpu, transport="disk")


@pytest.mark.parametrize("transport", ["auto", "collective", "disk"])
def test_gloo_serves_a_learner_on_a_gpu_but_by_shards(transport):
    check_weight_transport(WeightsConfig(transport=transport, backend="gloo"), on_cpu=False)
    by_shards = WeightsConfig(transport="shards", backend="gloo")
    check_weight_transport(by_shards, on_cpu=True)
    with pytest.raises(ConfigError, match=r'weights.backend = "nccl"'):
        check_weight_transport(by_shards, on_cpu=False)
