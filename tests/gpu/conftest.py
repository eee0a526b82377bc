"""A GPU and groups of a single rank."""

import pytest
import torch

from megatron_rl.learner.device.parallel import RankInfo, initialize_parallel, shut_down_parallel
from megatron_rl.learner.device.platform import CudaPlatform, detect_platform
from megatron_rl.programs.gpu_stages.learning.layouts import ALONE
from megatron_rl.programs.gpu_stages.learning.policy import learner_of, make_sequences
from tests.gpu.reference_policy import reference_model


@pytest.fixture(scope="session")
def platform():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    platform = detect_platform(cpu_threads=1, local_rank=0)
    assert isinstance(platform, CudaPlatform)
    platform.install()
    return platform


@pytest.fixture(scope="session")
def parallel(platform):
    place = RankInfo(rank=0, world_size=1, local_rank=0)
    yield initialize_parallel(place, platform, ALONE, seed=0)
    shut_down_parallel()


@pytest.fixture(scope="session")
def model():
    return reference_model()


@pytest.fixture(scope="session")
def model_folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sequences():
    return make_sequences()


@pytest.fixture
def make_learner(platform, parallel, model_folder):
    """Build a learner of the reference's weights, with Transformer Engine where there is one."""

    def make(*, on=platform, **changes):
        return learner_of(model_folder, parallel, on, **changes)

    return make
