"""A precision that the device lacks is refused by the learner itself, before it joins others."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_rl.config import RunConfig, resolve
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.precision import Device
from megatron_rl.programs.builders.hardware import describe_precisions, least, local_device
from megatron_rl.programs.builders.model import check_precision_of
from tests.distributed.tiny_policy import CONFIG

HOPPER = Device(capability=(9, 0), te_version="2.9.0")


@pytest.fixture
def make_config(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))

    def make(**learner) -> RunConfig:
        return resolve(
            {
                "run_dir": tmp_path / "run",
                "num_steps": 1,
                "model": {"path": tmp_path, "init": "random", "dtype": "bfloat16"},
                "data": {"train": tmp_path / "none"},
                "generators": {"context_length": 64, "sampling": {"max_new_tokens": 60}},
                "learner": {"token_budget": 64, **learner},
            }
        )

    return make


def open_one(config: RunConfig):
    from megatron_rl.programs.builders.learner import open_learner

    return open_learner(
        config,
        config.learner.optimizer,
        objective=None,
        pretrained=None,
        temperature=1.0,
        total_steps=1,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
def test_a_learner_without_a_gpu_refuses_fp8_before_it_joins_others(make_config):
    with pytest.raises(ConfigError, match=r'learner.precision \("fp8"\).* an NVIDIA GPU'):
        open_one(make_config(precision="fp8"))
    assert not dist.is_initialized()


def test_a_field_of_megatron_that_is_set_elsewhere_is_refused_by_the_learner(make_config):
    with pytest.raises(ConfigError, match=r"learner.megatron.fp8 is set by learner.fp8.format"):
        open_one(make_config(megatron={"fp8": "hybrid"}))
    assert not dist.is_initialized()


def test_sizes_count_where_the_device_would_do(make_config):
    config = make_config(
        precision="fp8", num_processes=2, parallel={"tp": 2}, fp8={"recipe": "blockwise"}
    )
    spec = read_model_spec(config.model.path)
    with pytest.raises(ConfigError, match=r"intermediate_size / tp \(24\)"):  # 48 / 2
        check_precision_of(config, spec, HOPPER)
    check_precision_of(make_config(precision="fp8"), spec, HOPPER)


def test_a_configuration_read_back_is_not_refused(make_config):
    # Whatever was written holds every key, those of other precisions too.
    config = make_config(precision="bf16")
    assert resolve(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("listing", "capability"),
    [("", None), ("9.0\n9.0\n", (9, 0)), ("10.0\n8.9\n", (8, 9)), ("[N/A]\n", None)],
)
def test_the_least_capable_gpu_decides(listing, capability):
    assert least(listing) == capability


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="for a machine without a GPU")
def test_a_machine_without_a_driver_is_a_cpu():
    assert local_device().capability is None


@pytest.mark.parametrize(
    ("device", "text"),
    [
        (Device(capability=None, te_version=None), "fp32, bf16, fp16 (slow on a CPU)"),
        (Device(capability=(7, 0), te_version=None), "fp32, fp16"),
        (Device(capability=(8, 0), te_version="2.9.0"), "fp32, fp16, bf16"),
        (HOPPER, "fp32, fp16, bf16, fp8 (delayed, tensorwise, blockwise)"),
    ],
)
def test_precisions_are_described(device, text):
    assert describe_precisions(device) == text
