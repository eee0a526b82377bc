"""What the platform decides, without a GPU: kernels, layers and generators."""

import sys
from types import SimpleNamespace

import pytest
import torch

from megatron_rl.errors import ConfigError
from megatron_rl.learner.device import platform as platforms
from megatron_rl.learner.device.platform import CudaPlatform, detect_platform
from megatron_rl.learner.device.precision import (
    Device,
    check_attention,
    check_expert_biases,
    fused_fields,
    has_engine_attention,
)
from megatron_rl.learner.hf_weights import ungrouped
from megatron_rl.learner.model.gpt_model import _is_extra
from megatron_rl.model_spec import SlidingWindow
from megatron_rl.parallelism.layouts import Layout

ENGINE = Device(capability=(9, 0), te_version="2.9.0")


def test_kernels_are_asked_for_where_transformer_engine_has_all_of_them():
    assert fused_fields("2.9.0+cu129", is_mixture=False, has_latents=False) == {
        "apply_rope_fusion": True
    }
    assert fused_fields("2.1", is_mixture=True, has_latents=False) == {
        "apply_rope_fusion": True,
        "moe_grouped_gemm": True,
        "moe_permute_fusion": True,
    }
    # There is none for the rotated part of latent attention's heads.
    assert fused_fields("2.9.0", is_mixture=False, has_latents=True) == {}
    assert fused_fields("2.0.0", is_mixture=True, has_latents=False) == {}


def test_a_host_has_no_kernels_and_no_waits(platform):
    assert platform.fused_fields(dtype=torch.bfloat16, is_mixture=True, has_latents=False) == {}
    row = torch.arange(3)
    assert platform.upload(row) is row
    buffer = platform.host_buffer(torch.ones(2, 3, dtype=torch.bfloat16))
    assert (tuple(buffer.shape), buffer.dtype) == ((2, 3), torch.bfloat16)
    platform.synchronize()


def test_a_thread_that_follows_selects_its_gpu_before_its_stream_waits(monkeypatch):
    """CUDA's current device and stream belong to a thread, and start as GPU 0 and its own."""
    calls: list[tuple[object, ...]] = []
    streams = {
        gpu: SimpleNamespace(wait_event=lambda event, gpu=gpu: calls.append(("wait", gpu, event)))
        for gpu in (0, 3)
    }
    event = SimpleNamespace(record=lambda stream: calls.append(("record", stream)))
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: calls.append(("select", gpu)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda gpu=0: streams[gpu])
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    gpu = CudaPlatform(local_rank=3)
    gpu.follow(gpu.mark())
    assert calls == [("record", streams[3]), ("select", 3), ("wait", 3, event)]


@pytest.mark.parametrize(
    ("has_engine", "dtype", "uses_it"),
    [
        (True, torch.bfloat16, True),
        (True, torch.float16, True),
        (True, torch.float32, False),  # no attention of packed rows in float32
        (False, torch.bfloat16, False),
    ],
)
def test_transformer_engine_computes_what_it_can(has_engine, dtype, uses_it, monkeypatch):
    from megatron.core.extensions import transformer_engine
    from megatron.core.models.gpt import gpt_layer_specs

    monkeypatch.setattr(transformer_engine, "HAVE_TE", has_engine)
    monkeypatch.setattr(gpt_layer_specs, "get_gpt_decoder_block_spec", lambda *_, **__: "engine")
    layers = SimpleNamespace(torch_block_spec=lambda *_, **__: "torch", attend_with_torch=None)
    monkeypatch.setitem(sys.modules, "megatron_rl.learner.device.torch_layers", layers)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    gpu = CudaPlatform(local_rank=0)
    config = SimpleNamespace(
        params_dtype=dtype,
        kv_channels=128,
        multi_latent_attention=False,
        softmax_type="vanilla",
    )
    spec = gpu.block_spec(config, vp_stage=None)
    assert spec == ("engine" if uses_it else "torch")
    if not uses_it:
        assert gpu.fused_fields(dtype=dtype, is_mixture=True, has_latents=True) == {}


@pytest.mark.parametrize("is_there", [True, False])
def test_a_gpu_without_a_fused_adam_takes_torchs(is_there, monkeypatch):
    from megatron.core.optimizer import distrib_optimizer

    from megatron_rl.learner.device import cpu_patches

    patched = []
    monkeypatch.setattr(distrib_optimizer, "HAVE_APEX_OR_TE", is_there)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(cpu_patches, "give_megatron_a_torch_adam", lambda: patched.append("Adam"))
    CudaPlatform(local_rank=0).install()
    assert patched == ([] if is_there else ["Adam"])


def test_one_hardware_queue_and_the_servers_nccl_are_asked_for_before_a_gpu(monkeypatch):
    monkeypatch.setattr(platforms.os, "environ", {"NCCL_NVLS_ENABLE": "1"})
    asked = []

    def is_available():
        asked.append(dict(platforms.os.environ))
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    detect_platform(cpu_threads=1, local_rank=0)
    assert asked == [
        {
            "NCCL_NVLS_ENABLE": "1",
            "NCCL_CUMEM_ENABLE": "0",
            "CUDA_DEVICE_MAX_CONNECTIONS": "1",
            "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
        }
    ]


@pytest.mark.parametrize(
    ("precision", "device", "cp", "slides", "is_refused"),
    [
        ("bf16", ENGINE, 2, True, True),
        ("fp8", ENGINE, 2, True, True),
        ("bf16", ENGINE, 1, True, False),
        ("bf16", ENGINE, 2, False, False),
        ("fp32", ENGINE, 2, True, False),
        ("bf16", Device(capability=(9, 0), te_version=None), 2, True, False),
        ("bf16", Device(capability=None, te_version="2.9.0"), 2, True, False),
        ("bf16", Device(capability=(8, 0), te_version="2.9.0"), 2, True, False),
    ],
)
def test_a_window_over_several_ranks_is_refused_where_attention_has_none(
    precision, device, cp, slides, is_refused
):
    layout = Layout(tp=1, sp=False, pp=1, vpp=1, cp=cp, ep=1, etp=1)
    window = SlidingWindow(size=64, layers=(True,)) if slides else None
    model = SimpleNamespace(window=window, head_dim=128, value_dim=128, has_sinks=False)
    if not is_refused:
        check_attention(precision, layout, device, model)
        return
    with pytest.raises(
        ConfigError, match=r"learner\.parallel\.cp \(2\) must be 1 for a model with"
    ):
        check_attention(precision, layout, device, model)


def test_with_sinks_a_window_goes_over_several_ranks():
    layout = Layout(tp=1, sp=False, pp=1, vpp=1, cp=2, ep=1, etp=1)
    window = SlidingWindow(size=64, layers=(True,))
    model = SimpleNamespace(window=window, head_dim=64, value_dim=64, has_sinks=True)
    check_attention("bf16", layout, ENGINE, model)
    assert not has_engine_attention((9, 0), head_dim=64, value_dim=64, has_sinks=True)


def test_experts_with_biases_need_all_experts_as_one_product():
    biased = SimpleNamespace(has_linear_biases=True)
    check_expert_biases("bf16", ENGINE, biased)
    check_expert_biases("bf16", Device(capability=None, te_version="2.0.0"), biased)
    old = Device(capability=(9, 0), te_version="2.0.0")
    check_expert_biases("fp32", old, biased)
    check_expert_biases("bf16", old, SimpleNamespace(has_linear_biases=False))
    with pytest.raises(
        ConfigError, match=r"experts have biases needs Transformer Engine >= 2\.1, 2\.0\.0 is inst"
    ):
        check_expert_biases("bf16", old, biased)


@pytest.mark.parametrize(
    ("capability", "dims", "is_deterministic", "expected"),
    [
        ((8, 0), (128, 128), False, False),  # A100
        ((8, 9), (128, 128), False, False),
        ((9, 0), (256, 256), True, True),
        ((9, 0), (264, 264), False, False),
        ((9, 0), (20, 20), False, False),  # no multiple of 8
        ((10, 0), (128, 128), False, True),
        ((10, 0), (136, 136), False, False),
        ((10, 0), (128, 128), True, False),
        ((12, 0), (128, 128), False, False),
        # Latent attention: only DeepSeek's sizes where keys and values are both wide.
        ((8, 0), (192, 128), False, False),
        ((9, 0), (192, 128), True, True),
        ((9, 0), (256, 128), False, False),
        ((9, 0), (192, 64), False, True),
        ((9, 0), (24, 20), False, False),
        ((10, 0), (192, 128), False, True),
        ((10, 0), (192, 128), True, False),
        ((10, 0), (192, 64), False, False),
        ((10, 0), (96, 64), False, True),
    ],
)
def test_cudnns_attention_of_packed_rows_is_for_some_gpus_and_heads(
    capability, dims, is_deterministic, expected
):
    assert expected == has_engine_attention(
        capability, head_dim=dims[0], value_dim=dims[1], is_deterministic=is_deterministic
    )


@pytest.mark.parametrize(
    ("capability", "softmax_type", "is_torchs"),
    [((8, 0), "vanilla", True), ((9, 0), "vanilla", False), ((9, 0), "learnable", True)],
)
def test_without_that_attention_is_torchs_among_the_engines_layers(
    capability, softmax_type, is_torchs, monkeypatch
):
    from megatron.core.extensions import transformer_engine
    from megatron.core.models.gpt import gpt_layer_specs

    from megatron_rl.learner.device.attention import TorchCoreAttention

    parts = SimpleNamespace(core_attention="engine", linear_qkv="engine")
    layer = SimpleNamespace(self_attention=SimpleNamespace(submodules=parts))
    block = SimpleNamespace(layer_specs=[SimpleNamespace(submodules=layer)])
    monkeypatch.setattr(transformer_engine, "HAVE_TE", True)
    monkeypatch.setattr(gpt_layer_specs, "get_gpt_decoder_block_spec", lambda *_, **__: block)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    config = SimpleNamespace(
        params_dtype=torch.bfloat16,
        kv_channels=128,
        multi_latent_attention=False,
        softmax_type=softmax_type,
    )
    assert CudaPlatform(local_rank=0).block_spec(config, vp_stage=None) is block
    assert parts.core_attention == (TorchCoreAttention if is_torchs else "engine")
    assert parts.linear_qkv == "engine"


def test_generators_continue_where_they_were(platform, parallel):
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    def draw():
        with get_cuda_rng_tracker().fork():
            forked = torch.rand(2)
        return torch.rand(2), forked

    states = platform.generator_states()
    first = draw()
    assert not torch.equal(draw()[1], first[1])
    platform.set_generator_states(states)
    again = draw()
    assert torch.equal(again[0], first[0]) and torch.equal(again[1], first[1])


def test_of_a_gpus_generators_a_host_takes_its_own(platform, parallel):
    states = platform.generator_states()
    first = torch.rand(2)
    # A GPU's states have another size: forking from them would fail.
    platform.set_generator_states(states | {"kind": "cuda", "forked": {"x": torch.zeros(16)}})
    assert torch.equal(torch.rand(2), first)
    assert "x" not in platform.generator_states()["forked"]


def test_experts_of_one_module_are_named_as_experts_of_their_own():
    layer = "decoder.layers.3.mlp.experts"
    assert ungrouped(f"{layer}.linear_fc1.weight0") == f"{layer}.local_experts.0.linear_fc1.weight"
    assert ungrouped(f"{layer}.linear_fc2.weight17") == (
        f"{layer}.local_experts.17.linear_fc2.weight"
    )
    for name in (
        f"{layer}.local_experts.1.linear_fc1.weight",
        "decoder.layers.3.mlp.linear_fc1.weight",
        "decoder.layers.3.mlp.router.weight",
    ):
        assert ungrouped(name) == name


def test_extra_state_of_experts_in_one_module_is_extra():
    assert _is_extra("mlp.experts.linear_fc1._extra_state")
    assert _is_extra("mlp.experts.linear_fc1._extra_state12")
    assert not _is_extra("mlp.experts.linear_fc1.weight12")
