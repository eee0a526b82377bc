"""What is broadcast is what the device computed, by the thread and at the time that CUDA needs.

The device of these tests writes its memory only when somebody waits for it, so a missing wait sends
NaN. The server takes part in a real broadcast over gloo.
"""

import threading
import time
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from megatron_rl.conversion.block_fp8.blocks import quantise_blocks
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync import broadcast as broadcasting
from megatron_rl.weight_sync import group, nccl_faults
from megatron_rl.weight_sync.collective import CollectivePublisher
from tests.late_device import LateDevice
from tests.unit.weight_sync.receiving_server import ReceivingServer
from tests.unit.weight_sync.test_faults import Order


@pytest.fixture
def run_dir(tmp_path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def orders() -> list[Order]:
    return []


@pytest.fixture
def server(run_dir, orders) -> Iterator[ReceivingServer]:
    with ReceivingServer(run_dir, "a", orders) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        server.register()
        yield server
        server.shutdown()


def make_publisher(run_dir: RunDir, device: LateDevice) -> CollectivePublisher:
    return CollectivePublisher(
        run_dir, backend="gloo", device=device, timeout_s=20.0, bucket_bytes=24, retry_after_s=30.0
    )


def gathered(values: dict[str, torch.Tensor], device: LateDevice):
    """Yield weights that the device is only asked for."""
    for name, value in values.items():
        yield name, device.ask_for(value)


VALUES = {f"w{i}": torch.arange(6.0).view(2, 3) + 10 * i for i in range(5)}  # a bucket each


@pytest.mark.parametrize("connects_late", [False, True])
def test_every_bucket_is_computed_before_it_is_sent(run_dir, server, monkeypatch, connects_late):
    """Also when the first broadcast runs in a thread of its own, as over NCCL."""
    device, senders = LateDevice(), []
    real = dist.broadcast

    def broadcast(*args, **kwargs):
        senders.append((threading.current_thread().name, device.is_selected))
        return real(*args, **kwargs)

    class Group(group.BroadcastGroup):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._connects_late = connects_late

    monkeypatch.setattr(group.dist, "broadcast", broadcast)
    monkeypatch.setattr(broadcasting, "BroadcastGroup", Group)
    publisher = make_publisher(run_dir, device)
    report = publisher.publish(gathered(VALUES, device), version=1)
    publisher.close()
    assert report.num_servers == 1
    assert server.received.keys() == VALUES.keys()
    for name, value in VALUES.items():
        torch.testing.assert_close(server.received[name], value, rtol=0, atol=0)
    # CUDA's current device belongs to a thread: each one that sends has selected its own.
    assert all(is_selected for _, is_selected in senders)
    names = [name for name, _ in senders]
    assert threading.current_thread().name not in names
    assert ("weight-sync-connect" in names) == connects_late


def test_a_tensor_that_is_made_contiguous_is_read_after_it_is_computed(run_dir, server):
    device = LateDevice()
    publisher = make_publisher(run_dir, device)

    def weights():
        yield "w", device.ask_for(VALUES["w1"]).T

    publisher.publish(weights(), version=1)
    publisher.close()
    assert torch.equal(server.received["w"], VALUES["w1"].T)


def test_servers_pause_for_a_bucket_that_is_there_and_not_for_the_step_before_it(
    run_dir, server, orders
):
    """The pause would otherwise hold the optimiser step and the gathering of the first bucket."""
    device = LateDevice()

    def num_pauses() -> int:
        return sum(order.route == "/pause_generation" for order in orders)

    pauses_before_the_step_was_done: list[int] = []
    device.ask(lambda: pauses_before_the_step_was_done.append(num_pauses()))
    publisher = make_publisher(run_dir, device)
    publisher.publish(gathered(VALUES, device), version=1)
    publisher.close()
    assert pauses_before_the_step_was_done == [0]
    assert num_pauses() == 1


def test_both_sides_leave_a_group_at_the_same_time(run_dir, server, monkeypatch):
    """An NCCL rank may wait, as it ends, for those on its node: neither side may come first."""
    device, ours = LateDevice(), threading.Event()
    publisher = make_publisher(run_dir, device)
    publisher.publish(gathered(VALUES, device), version=1)
    real = dist.destroy_process_group

    def destroy(of):
        assert server.left.wait(10), "the server has not been told"
        ours.set()
        real(of)

    monkeypatch.setattr(nccl_faults.dist, "destroy_process_group", destroy)
    publisher.close()
    assert ours.is_set()


def test_a_group_that_never_ends_is_left_behind(run_dir, server, monkeypatch):
    device, forever = LateDevice(), threading.Event()
    publisher = make_publisher(run_dir, device)
    publisher.publish(gathered(VALUES, device), version=1)
    broken = publisher._broadcaster._group
    broken_group = broken._group
    monkeypatch.setattr(nccl_faults.dist, "destroy_process_group", lambda _: forever.wait(20))
    started = time.monotonic()
    broken.leave(timeout_s=0.2)
    assert time.monotonic() - started < 5
    # Torch no longer knows it, so that the learner's own end does not wait for it.
    assert broken_group not in dist.distributed_c10d._world.pg_names
    forever.set()


def test_fp8_arrives_bit_for_bit_and_only_what_is_fp8_is_sent_as_bytes(run_dir, server, orders):
    device = LateDevice()
    values, scales = quantise_blocks(torch.arange(300.0).view(2, 150))
    weights = {"norm": VALUES["w1"], "w": values, "w_scale_inv": scales}
    publisher = make_publisher(run_dir, device)
    publisher.publish(gathered(weights, device), version=1)
    publisher.close()
    assert list(server.received) == ["norm", "w", "w_scale_inv"]
    for name, tensor in weights.items():
        assert server.received[name].dtype == tensor.dtype
        found, sent = server.received[name].contiguous(), tensor.contiguous()
        assert torch.equal(found.view(torch.uint8), sent.view(torch.uint8)), name
