"""The judge's promise: a verdict or a named error, whatever the verifier does."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_rl.errors import VerifierError
from megatron_rl.judge.judge import Judge
from megatron_rl.judge.worker_pool import PoolSettings, WorkerPool
from megatron_rl.types import Problem, Response, Verdict
from tests.unit.records import answering

HERE = Path(__file__).parent
PROBLEM = Problem(id="p7", text="?", answer="fine")
SETTINGS = {
    "verifier": "misbehaving_verifiers:make",
    "settings": {"from": "the judge"},
    "num_workers": 1,
    "deadline_s": 0.3,
    "slow_deadlines_s": {},
    "quick_s": 30.0,
    "memory_mb": 512,
    "recycle_after": 1000,
}


@pytest.fixture(autouse=True)
def _verifiers_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


def with_judge(
    use: Callable[[Judge], Awaitable[Any]], *, max_retries: int = 1, **settings: Any
) -> Any:
    async def run() -> Any:
        pool = WorkerPool(PoolSettings(**{**SETTINGS, **settings}))
        async with Judge([pool], max_retries=max_retries, wait_s=0.0) as judge:
            return await use(judge)

    return asyncio.run(asyncio.wait_for(run(), 20))


def judge_one(text: str, **settings: Any) -> Verdict:
    return with_judge(lambda judge: judge(PROBLEM, answering(text)), **settings)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    give_up_s = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < give_up_s, f"process {pid} is still there"
        time.sleep(0.02)


def test_package_verifiers_judge_through_the_pool():
    problem = Problem(id="a", text="1/2 + 1/2?", answer="1")

    async def use(judge: Judge):
        right = await judge(problem, answering(r"\boxed{\frac{2}{2}}"))
        wrong = await judge(problem, answering(r"\boxed{2}"))
        broken = await judge(problem, Response(thoughts=None, answer="", fault="has no tags"))
        return right, wrong, broken, judge.stats()

    right, wrong, broken, stats = with_judge(
        use,
        verifier="megatron_rl.programs.builders.worker_verifiers:make_verifier",
        settings={"language": False, "code": {}, "own": {}},
        deadline_s=10.0,
    )
    assert (right.format_ok, right.correct, right.answer) == (True, True, r"\frac{2}{2}")
    assert (wrong.format_ok, wrong.correct) == (True, False)
    assert (broken.format_ok, broken.correct) == (False, False)
    assert (stats.judged, stats.errors, stats.retries, stats.queue_length) == (3, 0, 0, 0)
    assert stats.mean_execution_s > 0


@pytest.mark.parametrize(
    ("action", "what_happened"),
    [
        ("hang", "exceeded its deadline of 0.3 s"),
        ("hang in C", "exceeded its deadline of 0.3 s"),
        ("exit", "exit code 3"),
        ("be aborted", "killed by SIGABRT"),
        ("raise", "ZeroDivisionError: on purpose"),
        ("eat", "needed more memory than judge.memory_mb"),
    ],
)
def test_a_verifier_that_always_fails_is_an_error_by_name_after_one_retry(action, what_happened):
    async def use(judge: Judge):
        with pytest.raises(VerifierError, match=what_happened) as caught:
            await judge(PROBLEM, answering(action))
        assert (await judge(PROBLEM, answering("fine"))).correct, "the pool must survive"
        return str(caught.value), judge.stats()

    message, stats = with_judge(use)
    assert "p7" in message and "2 attempts" in message
    assert (stats.judged, stats.errors, stats.retries) == (1, 1, 1)


@pytest.mark.parametrize("action", ["hang", "exit", "be killed", "be aborted", "raise", "eat"])
def test_a_failure_that_does_not_repeat_costs_one_retry_and_nothing_else(action, tmp_path):
    async def use(judge: Judge):
        return await judge(PROBLEM, answering(f"once:{tmp_path / 'mark'}:{action}")), judge.stats()

    verdict, stats = with_judge(use)
    assert verdict.correct
    assert (stats.judged, stats.errors, stats.retries) == (1, 0, 1)


def test_a_worker_killed_while_idle_or_busy_is_replaced():
    async def use(judge: Judge):
        first = int((await judge(PROBLEM, answering("fine"))).answer)
        os.kill(first, signal.SIGKILL)  # idle
        second = int((await judge(PROBLEM, answering("fine"))).answer)
        asyncio.get_running_loop().call_later(0.05, os.kill, second, signal.SIGKILL)  # busy
        third = await judge(PROBLEM, answering("take a while"))
        return {first, second, int(third.answer)}

    assert len(with_judge(use)) == 3


def test_a_worker_whose_verifier_raised_judges_nobody_else():
    # What made it raise may be broken for good, and fails faster than a sound worker judges.
    async def use(judge: Judge):
        first = await judge(PROBLEM, answering("fine"))
        with pytest.raises(VerifierError, match="on purpose"):
            await judge(PROBLEM, answering("raise"))
        return first.answer, (await judge(PROBLEM, answering("fine"))).answer

    first, second = with_judge(use, max_retries=0)
    assert first != second  # process ids


def test_a_worker_is_replaced_after_its_share_of_verdicts():
    async def use(judge: Judge):
        return [int((await judge(PROBLEM, answering("fine"))).answer) for _ in range(5)]

    a, b, c, d, e = with_judge(use, recycle_after=2)
    assert a == b and c == d and len({a, c, e}) == 3


def test_a_worker_that_holds_half_of_its_memory_is_replaced():
    async def use(judge: Judge):
        return [
            int((await judge(PROBLEM, answering(text))).answer) for text in ("fine", "grow", "fine")
        ]

    first, second, third = with_judge(use, memory_mb=256, deadline_s=20.0)  # 140 > 256 / 2
    assert first == second != third


def test_slow_verdicts_leave_a_worker_for_quick_ones():
    # Two workers, of which slow verdicts may hold one: the second and third that hang wait.
    async def use(judge: Judge):
        slow = [asyncio.create_task(judge(PROBLEM, answering("hang"))) for _ in range(3)]
        await asyncio.sleep(0.5)
        verdicts = [await judge(PROBLEM, answering("fine")) for _ in range(20)]
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        return verdicts

    verdicts = with_judge(use, num_workers=2, quick_s=0.05, deadline_s=30.0)
    assert all(verdict.correct for verdict in verdicts)


def test_who_waits_is_not_kept_waiting_for_all_of_the_quick_time():
    # Both workers hang, and by themselves would be taken for slow only after 10 s.
    async def use(judge: Judge):
        slow = [asyncio.create_task(judge(PROBLEM, answering("hang"))) for _ in range(2)]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(8.0):
            verdict = await judge(PROBLEM, answering("fine"))
        assert not any(task.done() for task in slow)
        for task in slow:
            task.cancel()
        return verdict

    assert with_judge(use, num_workers=2, quick_s=10.0, deadline_s=300.0).correct


def test_a_kind_that_always_takes_long_has_a_deadline_of_its_own():
    async def use(judge: Judge):
        code = Problem(id="c", text="", answer="take a while", kind="code")
        return await judge(code, answering("take a while"))  # 0.1 s

    assert with_judge(use, deadline_s=0.01, slow_deadlines_s={"code": 10.0}).correct


def test_a_verdict_that_is_slow_but_in_time_counts():
    async def use(judge: Judge):
        verdicts = await asyncio.gather(
            *(judge(PROBLEM, answering("take a while")) for _ in range(6))
        )
        return verdicts, judge.stats()

    verdicts, stats = with_judge(use, num_workers=3, quick_s=0.02, deadline_s=10.0)
    assert [verdict.answer is not None for verdict in verdicts] == [True] * 6
    assert (stats.judged, stats.errors, stats.retries) == (6, 0, 0)
    assert 0.1 <= stats.latency_p50_s <= stats.latency_p99_s


def test_a_response_that_keeps_losing_its_worker_is_given_up():
    message = "no verdict after 9 attempts: the verifier's process was killed by SIGKILL"
    with pytest.raises(VerifierError, match=message):
        judge_one("be killed")


def test_a_stopped_worker_is_given_up_by_the_parent(monkeypatch):
    monkeypatch.setattr("megatron_rl.judge.worker_pool._GRACE_S", 0.2)
    with pytest.raises(VerifierError, match="silent"):
        judge_one("stop", max_retries=0)


def test_a_verifier_may_print_and_read_without_touching_the_protocol():
    assert judge_one("print").format_ok


def test_the_deadline_does_not_count_queueing():
    # 5 verdicts of 0.1 s on one worker: the last waits 0.4 s, longer than the deadline of 0.3 s.
    async def use(judge: Judge):
        tasks = [asyncio.create_task(judge(PROBLEM, answering("take a while"))) for _ in range(5)]
        await asyncio.sleep(0.05)
        waiting = judge.stats().queue_length
        await asyncio.gather(*tasks)
        return waiting, judge.stats()

    waiting, stats = with_judge(use)
    assert waiting == 4  # one of the five is being judged
    assert (stats.judged, stats.retries, stats.queue_length) == (5, 0, 0)
    assert 0.1 <= stats.mean_execution_s < 0.3


def test_the_event_loop_keeps_running_while_a_verifier_hangs():
    async def use(judge: Judge):
        ticks = 0
        task = asyncio.create_task(judge(PROBLEM, answering("hang in C")))
        while not task.done():
            await asyncio.sleep(0.02)
            ticks += 1
        assert isinstance(task.exception(), VerifierError)
        return ticks

    assert with_judge(use, max_retries=0) >= 5  # of 15 in the 0.3 s before the deadline


def test_cancelling_a_call_does_not_confuse_the_next_one():
    async def use(judge: Judge):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(judge(PROBLEM, answering("take a while")), 0.05)
        return await judge(PROBLEM, answering("fine"))

    assert with_judge(use).correct


def test_hundred_concurrent_responses_get_their_own_verdicts():
    async def use(judge: Judge):
        texts = ["fine" if i % 3 else "no" for i in range(100)]
        return texts, await asyncio.gather(*(judge(PROBLEM, answering(text)) for text in texts))

    texts, verdicts = with_judge(use, num_workers=2)
    assert [verdict.correct for verdict in verdicts] == [text == "fine" for text in texts]


def test_a_response_larger_than_a_pipe_passes_whole():
    text = "\u00e9\U0001f600" * 200_000
    assert with_judge(
        lambda judge: judge(Problem(id="b", text="", answer=text), answering(text))
    ).correct


def test_leaving_the_judge_leaves_no_process_even_mid_verdict(tmp_path, monkeypatch):
    mark = tmp_path / "child"
    monkeypatch.setenv("CHILD_PID_FILE", str(mark))

    async def use(judge: Judge):
        worker = int((await judge(PROBLEM, answering("fine"))).answer)
        task = asyncio.create_task(judge(PROBLEM, answering("spawn and hang")))
        while not (mark.exists() and mark.read_text()):
            await asyncio.sleep(0.02)
        return worker, task

    worker, task = with_judge(use, deadline_s=30.0)
    wait_until_gone(worker)
    wait_until_gone(int(mark.read_text()))
    assert task.done()  # refused or cancelled, not left hanging


def test_children_of_a_verifier_die_with_it_at_the_deadline(tmp_path, monkeypatch):
    mark = tmp_path / "child"
    monkeypatch.setenv("CHILD_PID_FILE", str(mark))
    with pytest.raises(VerifierError):
        judge_one("spawn and hang", max_retries=0)
    wait_until_gone(int(mark.read_text()))


PARENT = """
import asyncio, os
from megatron_rl.judge.judge import Judge
from megatron_rl.judge.worker_pool import PoolSettings, WorkerPool
from megatron_rl.types import Problem, Response

async def main():
    problem = Problem(id="p", text="", answer="")
    pool = WorkerPool(PoolSettings(**SETTINGS))
    async with Judge([pool], max_retries=0, wait_s=0.0) as judge:
        asked = Response(thoughts=None, answer="take a while", fault=None)
        verdicts = await asyncio.gather(*(judge(problem, asked) for _ in range(2)))
        answers = [int(verdict.answer) for verdict in verdicts]
        hang = Response(thoughts=None, answer="hang", fault=None)
        tasks = [asyncio.create_task(judge(problem, hang))]
        await asyncio.sleep(0.05)
        print(*answers, flush=True)
        await asyncio.gather(*tasks)

asyncio.run(main())
"""


def test_workers_die_with_a_parent_that_is_killed():
    parent = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            PARENT.replace("SETTINGS", repr({**SETTINGS, "num_workers": 2, "deadline_s": 60.0})),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(set(pids)) == 2 and all(map(is_running, pids))  # one busy, one idle
    parent.kill()
    parent.communicate()
    for pid in pids:
        wait_until_gone(pid)


def test_a_verifier_that_cannot_be_imported_is_refused_at_the_start():
    with pytest.raises(VerifierError, match=r"no_such_module:make cannot start.*exit code 1"):
        judge_one("fine", verifier="no_such_module:make")


def test_a_worker_starts_fast_and_without_heavy_imports():
    probe = (
        "import sys, megatron_rl.judge.fork_server;"
        "import megatron_rl.programs.builders.worker_verifiers;"
        "print(*sorted({'torch', 'megatron', 'aiohttp', 'sympy'} & sys.modules.keys()))"
    )
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.stdout.strip() == ""
    assert time.monotonic() - start_s < 2.0  # 0.05 s on an idle machine
