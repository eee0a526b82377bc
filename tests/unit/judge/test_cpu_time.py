"""A process that waits for a processor is not slow; one that sleeps or computes is."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from megatron_rl.judge.cpu_time import is_done_within

SPIN = "while True: pass"
SLEEP = "import time; time.sleep(60)"


@contextlib.contextmanager
def processes(source: str, num: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Start processes that compete for one processor."""
    command = [sys.executable, "-I", "-S", "-c", f"print(flush=True)\n{source}"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(num)]
    try:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
            with contextlib.suppress(AttributeError):  # a system that does not say who runs where
                os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def wait_for_nothing(pid: int, seconds: float) -> tuple[bool, float]:
    async def scenario() -> bool:
        never = asyncio.get_running_loop().create_future()
        return await is_done_within(never, pid, lambda: seconds)

    started_s = time.monotonic()
    return asyncio.run(scenario()), time.monotonic() - started_s


def test_an_answer_in_time_is_in_time():
    async def scenario() -> bool:
        answer = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, answer.set_result, None)
        return await is_done_within(answer, os.getpid(), lambda: 30.0)

    assert asyncio.run(scenario())


def test_sleeping_counts():
    with processes(SLEEP, 1) as (sleeper,):
        is_done, waited_s = wait_for_nothing(sleeper.pid, 0.2)
    assert not is_done
    assert 0.2 <= waited_s < 5.0


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="a kernel that counts less")
def test_waiting_for_a_processor_does_not_count():
    # Four share a processor, so that 0.2 s of it take about 0.8 s.
    with processes(SPIN, 4) as (computing, *_):
        is_done, waited_s = wait_for_nothing(computing.pid, 0.2)
    assert not is_done
    assert waited_s > 0.4


def test_patience_may_end_while_it_is_waited():
    async def scenario(pid: int) -> bool:
        ends_at = time.monotonic() + 0.1
        never = asyncio.get_running_loop().create_future()
        return await is_done_within(
            never, pid, lambda: 30.0 if time.monotonic() < ends_at else 0.01
        )

    started_s = time.monotonic()
    with processes(SPIN, 1) as (computing,):
        assert asyncio.run(scenario(computing.pid)) is False
    assert 0.1 < time.monotonic() - started_s < 15.0


def test_a_process_that_is_gone_is_given_up():
    with processes(SLEEP, 1) as (sleeper,):
        pass
    assert wait_for_nothing(sleeper.pid, 0.05)[0] is False
