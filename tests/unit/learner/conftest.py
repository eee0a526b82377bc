"""A learner's surroundings in one process: the CPU platform, and groups of a single rank."""

import pytest
import torch

from megatron_rl.learner.device.parallel import RankInfo, initialize_parallel, shut_down_parallel
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.parallelism.layouts import Layout

ALONE = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)


@pytest.fixture(scope="module")
def platform():
    if torch.cuda.is_available():
        pytest.skip("the CPU platform is for machines without CUDA")
    platform = CpuPlatform(num_threads=torch.get_num_threads())
    platform.install()
    return platform


@pytest.fixture(scope="module")
def parallel(platform):
    place = RankInfo(rank=0, world_size=1, local_rank=0)
    yield initialize_parallel(place, platform, ALONE, seed=0)
    shut_down_parallel()
