"""Publication without any server."""

import pytest
import torch

from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.registry import PolicyState, read_policy_state
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.collective import CollectivePublisher


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def publisher(run_dir) -> CollectivePublisher:
    return CollectivePublisher(
        run_dir,
        backend="gloo",
        device=CpuPlatform(num_threads=1),
        timeout_s=5.0,
        bucket_bytes=8,
        retry_after_s=30.0,
    )


def test_without_servers_the_state_is_published_and_the_weights_are_still_read(run_dir, publisher):
    weights = iter([(f"w{i}", torch.zeros(2)) for i in range(4)])
    report = publisher.publish(weights, version=3)
    assert next(weights, None) is None
    assert report.num_servers == 0
    assert report.num_bytes == 32  # 4 tensors of 2 float32
    assert read_policy_state(run_dir) == PolicyState(version=3, servers={})
    assert not publisher.pending()


def test_weights_that_fail_leave_no_server_named(run_dir, publisher):
    def failing_weights():
        yield "w0", torch.zeros(2)
        yield "w1", torch.zeros(2)
        raise ArithmeticError("the learner broke")

    with pytest.raises(ArithmeticError):
        publisher.publish(failing_weights(), version=3)
    assert read_policy_state(run_dir) == PolicyState(version=3, servers={})
