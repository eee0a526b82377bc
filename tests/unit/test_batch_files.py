import asyncio
import socket
import threading
from pathlib import Path

import numpy as np
import pytest

from megatron_rl.batch import Batch, make_batch
from megatron_rl.batch_files import FileBatchSink, FileBatchSource, Position, prune_batches
from megatron_rl.errors import BatchFileError
from megatron_rl.registry import PolicyState, publish_policy_state
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Cursor
from tests.unit.records import make_group, make_sample

POLL_S = 0.01


def batch_of(index: int) -> Batch:
    return make_batch(
        [make_group(index, make_sample())],
        advantages_N=np.ones(1, dtype=np.float32),
        weights_N=np.ones(1, dtype=np.float32),
        minibatches_N=np.zeros(1, dtype=np.int64),
        cursor=Cursor(next_index=index + 2, outstanding=(index + 1,)),
        metrics={},
    )


def publish(run_dir: RunDir, version: int) -> None:
    publish_policy_state(run_dir, PolicyState(version=version, servers={}))


def sink_of(run_dir: RunDir, max_steps_ahead: int | None = None) -> FileBatchSink:
    return FileBatchSink(run_dir, max_steps_ahead=max_steps_ahead, poll_s=POLL_S)


def fill(run_dir: RunDir, *steps: int) -> None:
    for step in steps:
        asyncio.run(sink_of(run_dir).put(step, batch_of(10 * step)))


def test_a_batch_that_is_put_can_be_read(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    source = FileBatchSource(run_dir)
    assert not source.is_there(0)
    fill(run_dir, 0)
    assert source.is_there(0) and not source.is_there(1)
    assert source.read(0, timeout_s=0).groups_N.tolist() == [0]


def test_a_batch_that_comes_into_sight_late_is_waited_for(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    writer = threading.Timer(0.2, fill, args=(run_dir, 0))
    writer.start()
    assert FileBatchSource(run_dir).read(0, timeout_s=10).groups_N.tolist() == [0]
    writer.join()


def test_a_batch_that_only_rank_0_sees_is_an_error_that_names_this_machine(tmp_path: Path):
    with pytest.raises(BatchFileError, match=f"step_000003.* and {socket.gethostname()} does not"):
        FileBatchSource(RunDir(tmp_path)).read(3, timeout_s=0.1)


@pytest.mark.parametrize("max_steps_ahead", [1, 2])
def test_put_waits_until_the_learner_is_near_enough(tmp_path: Path, max_steps_ahead: int):
    run_dir, step = RunDir(tmp_path), 5

    async def scenario() -> None:
        sink = sink_of(run_dir, max_steps_ahead)
        put = asyncio.create_task(sink.put(step, batch_of(0)))
        await asyncio.sleep(5 * POLL_S)
        assert not put.done()  # the learner has not started
        publish(run_dir, step - max_steps_ahead)
        await asyncio.sleep(5 * POLL_S)
        assert not put.done()
        publish(run_dir, step - max_steps_ahead + 1)
        await asyncio.wait_for(put, 2)

    asyncio.run(scenario())
    assert FileBatchSource(run_dir).is_there(step)


def test_a_fresh_run_starts_at_the_beginning(tmp_path: Path):
    assert sink_of(RunDir(tmp_path)).position() == Position(step=0, cursor=Cursor())


def test_rollout_goes_on_after_the_newest_batch_though_the_learner_is_behind(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    fill(run_dir, 0, 1, 2)
    publish(run_dir, 1)
    expected = Position(step=3, cursor=Cursor(next_index=22, outstanding=(21,)))
    assert sink_of(run_dir).position() == expected


def test_position_survives_pruning_of_everything_the_learner_has_trained(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    fill(run_dir, 0, 1, 2)
    publish(run_dir, 3)
    before = sink_of(run_dir).position()
    prune_batches(run_dir, before_step=3)
    assert [path.name for path in run_dir.batches.iterdir()] == ["step_000002.safetensors"]
    assert sink_of(run_dir).position() == before


def test_pruning_keeps_what_a_restored_learner_replays(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    fill(run_dir, 0, 1, 2, 3)
    prune_batches(run_dir, before_step=2)
    source = FileBatchSource(run_dir)
    assert [source.is_there(step) for step in range(4)] == [False, False, True, True]


def test_lost_batches_are_an_error_and_not_a_new_curriculum(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    publish(run_dir, 4)
    with pytest.raises(BatchFileError, match="version 4, so batch 3 must be there"):
        sink_of(run_dir).position()


def test_a_gap_is_an_error(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    fill(run_dir, 0, 2)
    publish(run_dir, 1)
    with pytest.raises(BatchFileError, match="batch 1 is missing but 2 is there"):
        sink_of(run_dir).position()


def test_an_unfinished_file_is_no_batch(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    fill(run_dir, 0)
    (run_dir.batches / ".step_000001.safetensors.77.partial").write_bytes(b"half")
    assert sink_of(run_dir).next_step() == 1
    assert not FileBatchSource(run_dir).is_there(1)


def test_a_damaged_batch_is_an_error_at_both_ends(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    fill(run_dir, 0)
    run_dir.batch(0).write_bytes(b"damaged")
    with pytest.raises(BatchFileError):
        FileBatchSource(run_dir).read(0, timeout_s=0)
    with pytest.raises(BatchFileError):
        sink_of(run_dir).position()
