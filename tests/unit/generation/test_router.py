"""The router over a run folder with small real HTTP servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from fake_sglang import KEY, FakeSGLang, fails, hangs, replies, resets

from megatron_rl.errors import GeneratorRequestError, GeneratorUnavailableError
from megatron_rl.generation.router import Lease, Router
from megatron_rl.registry import (
    PolicyState,
    ServerInfo,
    publish_policy_state,
    register_server,
    unregister_server,
)
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Sampling

SAMPLING = Sampling(params={"temperature": 1.0})
POLL_S = 0.02


def register(
    run_dir: RunDir,
    name: str,
    server: FakeSGLang,
    *,
    incarnation: str = "i",
    starts_without_weights: bool = False,
) -> None:
    info = ServerInfo(
        name=name,
        incarnation=incarnation,
        url=server.url,
        api_key=KEY,
        pid=1,
        tp=1,
        starts_without_weights=starts_without_weights,
        takes_shards=False,
    )
    register_server(run_dir, info)


def acknowledge(run_dir: RunDir, *names: str, version: int = 0) -> None:
    publish_policy_state(run_dir, PolicyState(version=version, servers=dict.fromkeys(names, "i")))


@contextlib.asynccontextmanager
async def routing(
    run_dir: RunDir, *servers: FakeSGLang, admit: str = "acknowledged", wait_timeout_s: float = 5.0
) -> AsyncIterator[Router]:
    """Start servers a, b, ..., acknowledge version 0 on all, and route over them."""
    async with contextlib.AsyncExitStack() as stack:
        names = "abc"[: len(servers)]
        for name, server in zip(names, servers, strict=True):
            await stack.enter_async_context(server)
            register(run_dir, name, server)
        if admit == "acknowledged":
            acknowledge(run_dir, *names)
        yield await stack.enter_async_context(
            Router(
                run_dir,
                admit=admit,
                max_attempts=2,
                backoff_s=0.01,
                request_timeout_s=5.0,
                wait_timeout_s=wait_timeout_s,
                poll_s=POLL_S,
            )
        )


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 10))


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(POLL_S / 4)


def call(lease: Lease, request_id: str = "r") -> "asyncio.Task":
    return asyncio.create_task(lease([1, 2], SAMPLING, request_id=request_id))


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def test_a_lease_goes_to_the_server_with_the_fewest_completions_in_flight(run_dir):
    async def story():
        async with routing(run_dir, FakeSGLang(hangs), FakeSGLang(hangs)) as router:
            busy = await router.lease()
            tasks = [call(busy) for _ in range(3)]
            await until(lambda: router.snapshot().in_flight == 3)
            names = {(await router.lease()).server_name for _ in range(4)}
            assert names == {"ab".replace(busy.server_name, "")}
            for task in tasks:
                task.cancel()

    run(story)


def test_leases_of_idle_servers_alternate(run_dir):
    async def story():
        async with routing(run_dir, FakeSGLang(), FakeSGLang()) as router:
            names = [(await router.lease()).server_name for _ in range(4)]
            assert sorted(names) == ["a", "a", "b", "b"]

    run(story)


def test_all_calls_of_a_lease_share_one_server(run_dir):
    async def story():
        servers = [FakeSGLang(), FakeSGLang()]
        async with routing(run_dir, *servers) as router:
            lease = await router.lease()
            await asyncio.gather(*(call(lease, f"r{i}") for i in range(8)))
            assert sorted(len(server.requests) for server in servers) == [0, 8]

    run(story)


@pytest.mark.parametrize("fault", [fails(503), resets, replies(finish="abort")])
def test_a_call_moves_whole_to_another_server_when_its_own_fails(run_dir, fault):
    async def story():
        bad, good = FakeSGLang(fault), FakeSGLang()
        async with routing(run_dir, bad, good) as router:
            lease = await router.lease()
            assert lease.server_name == "a"
            completion = await lease([1, 2], SAMPLING, request_id="r")
            assert completion.token_ids == (7,)
            assert good.requests[0]["input_ids"] == [1, 2]
            assert router.snapshot().moved == 1
            assert (await router.lease()).server_name == "b"  # a is passed over for a while

    run(story)


def test_a_refused_request_is_tried_nowhere_else(run_dir):
    async def story():
        other = FakeSGLang()
        async with routing(run_dir, FakeSGLang(fails(400, "too long")), other) as router:
            with pytest.raises(GeneratorRequestError, match="too long"):
                await (await router.lease())([1], SAMPLING, request_id="r")
            assert not other.requests

    run(story)


def test_a_call_fails_after_as_many_servers_as_attempts(run_dir):
    async def story():
        broken = [FakeSGLang(fails(503, "broken")) for _ in range(3)]
        async with routing(run_dir, *broken) as router:
            with pytest.raises(GeneratorUnavailableError, match="broken"):
                await (await router.lease())([1], SAMPLING, request_id="r")
            assert sum(bool(server.requests) for server in broken) == 2

    run(story)


def test_a_call_in_flight_moves_when_its_server_is_unregistered(run_dir):
    async def story():
        async with routing(run_dir, FakeSGLang(hangs), FakeSGLang()) as router:
            lease = await router.lease()
            assert lease.server_name == "a"
            task = call(lease)
            await until(lambda: router.snapshot().in_flight == 1)
            unregister_server(run_dir, "a")
            assert (await task).token_ids == (7,)
            assert lease.server_name == "b"

    run(story)


def test_a_restarted_server_waits_until_it_has_acknowledged_again(run_dir):
    async def story():
        first, second = FakeSGLang(), FakeSGLang()
        async with routing(run_dir, first) as router, second:
            register(run_dir, "a", second, incarnation="new")
            await until(lambda: router.snapshot().num_routable == 0)
            waiting = asyncio.create_task(router.lease())
            await asyncio.sleep(3 * POLL_S)
            assert not waiting.done()
            publish_policy_state(run_dir, PolicyState(version=1, servers={"a": "new"}))
            await call(await waiting)
            assert router.current_version() == 1
            assert second.requests and not first.requests

    run(story)


def test_only_servers_named_in_the_policy_state_are_used(run_dir):
    async def story():
        async with routing(run_dir, FakeSGLang(), FakeSGLang()) as router:
            acknowledge(run_dir, "b", version=3)
            await until(lambda: router.current_version() == 3)
            assert {(await router.lease()).server_name for _ in range(4)} == {"b"}

    run(story)


def test_without_a_learner_servers_with_weights_of_their_own_are_used(run_dir):
    async def story():
        async with routing(run_dir, FakeSGLang(), admit="standalone") as router:
            assert router.current_version() is None
            assert (await router.lease()).server_name == "a"

    run(story)


def test_without_a_learner_nobody_is_asked_who_waits_for_one(run_dir):
    async def story():
        async with (
            FakeSGLang() as server,
            routing(run_dir, wait_timeout_s=0.1, admit="standalone") as router,
        ):
            register(run_dir, "a", server, starts_without_weights=True)
            with pytest.raises(GeneratorUnavailableError, match="a wait for the learner's first"):
                await router.lease()

    run(story)


def test_waiting_for_a_server_ends_with_the_reason(run_dir):
    async def story():
        async with routing(run_dir, wait_timeout_s=0.1) as router:
            with pytest.raises(GeneratorUnavailableError, match="none is registered"):
                await router.lease()
        async with (
            FakeSGLang() as server,
            routing(run_dir, wait_timeout_s=0.1, admit="acknowledged") as router,
        ):
            register(run_dir, "late", server)
            with pytest.raises(GeneratorUnavailableError, match=r"late did not acknowledge.* 0 "):
                await router.lease()

    run(story)


def test_without_any_weights_published_the_learner_is_named(run_dir):
    async def story():
        server = FakeSGLang()
        async with routing(run_dir, wait_timeout_s=0.1, admit="acknowledged") as router, server:
            run_dir.policy.unlink()
            register(run_dir, "a", server)
            await until(lambda: router.current_version() is None)
            with pytest.raises(GeneratorUnavailableError, match="a wait for the learner's first"):
                await router.lease()

    run(story)


def test_the_snapshot_counts_tokens_and_busy_time(run_dir):
    async def story():
        tokens = [(-1.0, 3), (-1.0, 4)]
        async with routing(run_dir, FakeSGLang(replies(tokens=tokens))) as router:
            lease = await router.lease()
            await asyncio.gather(*(call(lease, f"r{i}") for i in range(3)))
            snapshot = router.snapshot()
            assert snapshot.generated_tokens == 6  # 3 completions of 2 tokens
            assert (snapshot.finished, snapshot.in_flight, snapshot.moved) == (3, 0, 0)
            assert 0 < snapshot.busy_s < 5
            await asyncio.sleep(0.05)
            assert router.snapshot().busy_s == snapshot.busy_s  # idle time does not count

    run(story)


def test_a_cancelled_call_is_no_longer_in_flight(run_dir):
    async def story():
        async with routing(run_dir, FakeSGLang(hangs)) as router:
            task = call(await router.lease())
            await until(lambda: router.snapshot().in_flight == 1)
            task.cancel()
            await asyncio.wait({task})
            assert router.snapshot().in_flight == 0

    run(story)


def test_the_key_is_in_no_representation(run_dir):
    async def story():
        async with routing(run_dir, FakeSGLang()) as router:
            lease = await router.lease()
            shown = f"{router!r} {lease!r} {router.snapshot()!r} {await router.choose()!r}"
            assert KEY not in shown

    run(story)
