"""Every patch says when what it patches is gone, can be applied again, and does what it names."""

import importlib

import pytest
import torch

from megatron_rl.learner.device import cpu_patches
from megatron_rl.learner.device.cpu_adam import FusedAdamOnTorch

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the patches are for processes without CUDA"
)
CORE = "megatron.core"
TARGETS = [
    ("turn_off_fusing_jit", f"{CORE}.jit", "disable_jit_fuser"),
    ("turn_off_fusing_jit", "torch.compiler", "set_stance"),
    *(
        ("give_torch_cuda_a_cpu_face", "torch.cuda", name)
        for name in ("current_device", "synchronize", "manual_seed", "current_stream", "Event")
    ),
    *(
        ("send_cuda_factories_to_cpu", f"{CORE}.{name}", "torch")
        for name in ("optimizer.optimizer", "dist_checkpointing.exchange_utils")
    ),
    (
        "use_the_cpu_generator_for_parallel_rng",
        f"{CORE}.tensor_parallel.random",
        "_get_cuda_rng_state",
    ),
    (
        "use_the_cpu_generator_for_parallel_rng",
        f"{CORE}.tensor_parallel.random",
        "_set_cuda_rng_state",
    ),
    (
        "honour_numpy_in_the_token_dispatcher",
        f"{CORE}.transformer.moe.token_dispatcher",
        "maybe_move_tensor_to_cpu",
    ),
    *(
        ("pad_uneven_parts_for_gloo", f"{CORE}.tensor_parallel.mappings", name)
        for name in ("_gather_along_first_dim", "_reduce_scatter_along_first_dim")
    ),
    ("leave_latent_projections_whole", f"{CORE}.transformer.multi_latent_attention", "TELinear"),
    ("give_megatron_a_torch_adam", f"{CORE}.optimizer", "Adam"),
    ("give_megatron_a_torch_adam", f"{CORE}.optimizer", "USING_PYTORCH_OPTIMIZER"),
    ("give_megatron_a_torch_adam", f"{CORE}.optimizer.distrib_optimizer", "Adam"),
    ("give_megatron_a_torch_adam", f"{CORE}.optimizer.distrib_optimizer", "HAVE_APEX_OR_TE"),
    ("give_megatron_a_torch_adam", f"{CORE}.optimizer.distrib_optimizer", "USING_APEX_OPTIMIZER"),
]


@pytest.fixture(autouse=True)
def patched():
    """Apply all, as every process without CUDA does."""
    cpu_patches.apply_all()


@pytest.mark.parametrize(("patch", "module", "name"), TARGETS)
def test_a_patch_says_so_when_its_target_is_gone(patch, module, name, monkeypatch):
    monkeypatch.delattr(importlib.import_module(module), name)
    with pytest.raises(AssertionError, match=rf"{module}\.{name} is gone"):
        getattr(cpu_patches, patch)()


def test_applying_all_again_changes_nothing():
    kind, cuda = torch.Tensor.type, torch.Tensor.cuda
    cpu_patches.apply_all()
    assert torch.Tensor.type is kind
    assert torch.ones(1).type() == "torch.cuda.FloatTensor"
    assert cuda(torch.ones(1)).device.type == "cpu"


def test_nothing_is_compiled_not_even_what_was_decorated_before_the_patch():
    from torch._dynamo.utils import counters

    counters.clear()
    doubled = torch.compile(lambda values: values * 2)(torch.ones(3))
    assert torch.equal(doubled, torch.full((3,), 2.0))
    assert not counters["frames"]


def test_cuda_questions_are_answered_for_the_host():
    assert torch.cuda.current_device() == torch.device("cpu")
    torch.cuda.synchronize()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    torch.cuda.current_stream().wait_event(event)
    with torch.cuda.stream(torch.cuda.Stream()):
        assert torch.cuda.current_stream().query()
    torch.cuda.manual_seed(5)
    state = torch.cuda.get_rng_state()
    first = torch.rand(3)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)


def test_factories_in_megatrons_modules_create_on_the_host():
    module = importlib.import_module("megatron.core.optimizer.optimizer")
    made = module.torch.zeros(2, device="cuda", pin_memory=True)
    assert made.device.type == "cpu"
    made = module.torch.empty_like(made, device=torch.device("cuda", 0))
    assert made.device.type == "cpu"
    assert module.torch.float32 is torch.float32
    assert module.torch.nn is torch.nn


def test_tensor_types_are_spelled_as_megatrons_optimisers_compare_them():
    assert torch.ones(1).type() == "torch.cuda.FloatTensor"
    assert torch.ones(1).bfloat16().type() == "torch.cuda.BFloat16Tensor"
    assert torch.ones(1).half().type() == "torch.cuda.HalfTensor"
    converted = torch.ones(1).type(torch.float64)
    assert converted.dtype == torch.float64
    assert torch.ones(1).type_as(converted).dtype == torch.float64


def test_transformer_engines_linear_is_left_to_latent_attention_where_it_is(monkeypatch):
    from megatron.core.transformer import multi_latent_attention

    from megatron_rl.learner.device.torch_layers import TorchDuplicatedLinear

    assert multi_latent_attention.TELinear is TorchDuplicatedLinear
    monkeypatch.setattr(multi_latent_attention, "TELinear", torch.nn.Linear)
    cpu_patches.leave_latent_projections_whole()
    assert multi_latent_attention.TELinear is torch.nn.Linear


def test_the_parallel_rng_forks_the_hosts_generator():
    from megatron.core.tensor_parallel.random import CudaRNGStatesTracker

    tracker = CudaRNGStatesTracker()
    tracker.add("apart", 11)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with tracker.fork("apart"):
        forked = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(forked, torch.rand(3, generator=torch.Generator().manual_seed(11)))


def test_names_of_transformer_engine_are_bound():
    moe_utils = importlib.import_module("megatron.core.transformer.moe.moe_utils")
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    assert hasattr(moe_utils, "te_general_gemm")
    assert not random.FP8GlobalStateManager.is_fp8_enabled()


def test_split_sizes_become_numpy_when_asked():
    dispatcher = importlib.import_module("megatron.core.transformer.moe.token_dispatcher")
    sizes = torch.tensor([1, 2])
    assert dispatcher.maybe_move_tensor_to_cpu(sizes, as_numpy=True).tolist() == [1, 2]
    assert dispatcher.maybe_move_tensor_to_cpu(sizes) is sizes


def test_adam_takes_the_steps_of_torch_and_counts_in_the_group():
    torch.manual_seed(0)
    mine, theirs = (torch.nn.Parameter(x) for x in (torch.ones(50), torch.ones(50)))
    options = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.2}
    fused, plain = FusedAdamOnTorch([mine], **options), torch.optim.AdamW([theirs], **options)
    for step in range(1, 6):
        mine.grad = torch.randn(50)
        theirs.grad = mine.grad.clone()
        fused.step()
        plain.step()
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)
        assert fused.param_groups[0]["step"] == step
        assert set(fused.state[mine]) == {"exp_avg", "exp_avg_sq"}
