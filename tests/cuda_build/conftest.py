"""The absent GPU, loaded before torch; without it these tests are not collected."""

import os
import sys

import pytest

from tests.cuda_build import absent_gpu

if absent_gpu.CAPABILITY in os.environ:
    assert "torch" not in sys.modules, "the absent GPU has to be loaded before torch"
    _GPU = absent_gpu.load()
else:
    # `make test-cuda-build` starts them, in the learner's GPU environment.
    collect_ignore_glob = ["*"]


@pytest.fixture(scope="session")
def gpu():
    """What answers in place of a GPU."""
    return _GPU


@pytest.fixture(scope="session")
def platform(gpu):
    """The learner's CUDA platform, installed."""
    import torch

    from megatron_rl.learner.device.platform import CudaPlatform, detect_platform

    platform = detect_platform(cpu_threads=1, local_rank=0)
    assert isinstance(platform, CudaPlatform)
    platform.install()
    # Compiling Megatron's small functions has a test of its own.
    torch.compiler.set_stance("force_eager")
    return platform


@pytest.fixture(scope="session")
def device(gpu):
    """What decides which precisions there are."""
    from megatron_rl.learner.device.precision import Device
    from megatron_rl.programs.builders.hardware import installed_version

    return Device(capability=gpu.capability, te_version=installed_version("transformer-engine"))


@pytest.fixture(scope="session")
def specs(tmp_path_factory):
    """The specification of every case of tests/tiny_models.py."""
    from tests.cuda_build.surroundings import spec_of
    from tests.tiny_models import CASES

    return {case: spec_of(case, tmp_path_factory.mktemp("model")) for case in CASES}
