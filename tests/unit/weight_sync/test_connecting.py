"""A call that may never return, as NCCL's first broadcast, is covered by a deadline."""

import threading
import time

import pytest

from megatron_rl.weight_sync.group import result_of_thread


def test_what_returns_in_time_is_returned():
    assert result_of_thread(lambda: ["work"], is_over=lambda: False) == ["work"]


def test_what_never_returns_is_left_behind():
    forever, deadline = threading.Event(), time.monotonic() + 0.05
    result = result_of_thread(forever.wait, is_over=lambda: time.monotonic() > deadline)
    assert result is None
    # It cannot keep the process from ending.
    left = [t for t in threading.enumerate() if t.name == "weight-sync-connect" and t.is_alive()]
    assert all(thread.daemon for thread in left)
    forever.set()


def test_an_error_of_the_group_is_raised_where_it_is_handled():
    def refuse():
        raise RuntimeError("a peer closed its connection")

    with pytest.raises(RuntimeError, match="a peer closed"):
        result_of_thread(refuse, is_over=lambda: False)
