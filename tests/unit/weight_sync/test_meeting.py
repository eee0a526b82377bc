"""Servers that meet in a broadcast's group, some of which refuse."""

import datetime
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch.distributed as dist

from megatron_rl.weight_sync.meeting import Meeting

pytestmark = pytest.mark.distributed


def refused() -> "Future[object]":
    answer: Future[object] = Future()
    answer.set_exception(RuntimeError("refused"))
    return answer


@pytest.mark.parametrize("refusing", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_nobody_waits_for_those_that_refuse_however_many_they_are(refusing):
    ranks = {"a": [1], "b": [2], "c": [3]}
    meeting = Meeting(ranks, datetime.timedelta(seconds=20))
    store = dist.TCPStore("127.0.0.1", meeting.port, is_master=False)
    for name in ranks.keys() - set(refusing):
        for rank in ranks[name]:
            store.set(f"pair/{rank}", "")
    store.num_keys()
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: meeting.end_if_failed(name, refused()), refusing))
    assert time.monotonic() - started < 10
    assert set(meeting.culprits) == set(refusing)
