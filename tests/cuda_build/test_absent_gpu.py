"""The absent GPU answers questions, refuses kernels, and lets nobody read their results."""

import importlib

import pytest
import torch


def test_it_answers_as_the_gpu_that_was_asked_for(gpu, platform):
    assert torch.cuda.is_available() and torch.cuda.device_count() == 8
    assert torch.cuda.get_device_capability() == gpu.capability == platform.capability
    assert platform.backend == "nccl" and platform.device == torch.device("cuda", 0)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().record_event().synchronize()


def test_kernels_are_refused(gpu, platform):
    there = torch.empty(4, device="cuda")
    with pytest.raises(RuntimeError, match="operation not supported"):
        there + 1
    assert gpu.refused == "a kernel"
    with pytest.raises(RuntimeError, match="CUBLAS_STATUS_NOT_SUPPORTED"):
        torch.mm(torch.empty(4, 4, device="cuda"), torch.empty(4, 4, device="cuda"))
    with pytest.raises(RuntimeError, match="operation not supported"):
        torch.ones(4).cuda()


def test_nothing_is_read_even_while_kernels_are_dropped(gpu, platform):
    with gpu.dropping():
        total = torch.ones(4, device="cuda").sum()
        for read in (total.item, total.cpu, total.tolist, lambda: bool(total > 0)):
            with pytest.raises(RuntimeError, match="operation not permitted"):
                read()
    assert gpu.refused == "a copy to the host"


@pytest.mark.parametrize(
    "module",
    [
        "transformer_engine.pytorch",
        "transformer_engine_torch",
        "megatron.core",
        "megatron.core.extensions.transformer_engine",
        "megatron_rl.learner.learner",
        "megatron_rl.programs.learn",
    ],
)
def test_what_a_learner_loads_is_there(module, platform):
    importlib.import_module(module)


def test_headers_for_kernels_of_the_run_time_come_with_the_packages():
    from megatron_rl.learner.device.engine_headers import packaged_headers

    assert (packaged_headers() / "cuda_runtime.h").exists()


def test_megatron_takes_transformer_engines_adam(platform):
    from megatron.core import optimizer
    from megatron.core.extensions.transformer_engine import HAVE_TE

    assert HAVE_TE
    assert optimizer.Adam.__module__.startswith("transformer_engine.")
