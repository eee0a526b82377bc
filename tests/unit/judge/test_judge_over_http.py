"""Judges of other machines, as real HTTP servers: refusals, losses, servers of other versions."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from megatron_rl.errors import VerifierError
from megatron_rl.judge.http_client import RemoteJudge
from megatron_rl.judge.http_server import make_app
from megatron_rl.judge.judge import Judge
from megatron_rl.judge.worker_handle import AttemptFailed
from megatron_rl.judge.worker_pool import PoolSettings, WorkerPool
from megatron_rl.types import Problem
from tests.unit.records import answering

PROBLEM = Problem(id="p7", text="?", answer="fine", extra={"unit": "cm"})
SETTINGS = {"from": "the judge"}
POOL = PoolSettings(
    verifier="misbehaving_verifiers:make",
    settings=SETTINGS,
    num_workers=1,
    deadline_s=10.0,
    slow_deadlines_s={},
    quick_s=5.0,
    memory_mb=512,
    recycle_after=1000,
)


@pytest.fixture(autouse=True)
def _verifiers_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)


@contextlib.asynccontextmanager
async def server(*, key: str | None = "secret", port: int = 0) -> AsyncIterator[web.TCPSite]:
    async with WorkerPool(POOL) as pool:
        runner = web.AppRunner(
            make_app(pool, grading_fingerprint=SETTINGS, key=key),
            handler_cancellation=True,
            shutdown_timeout=0.0,
        )
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port)
        await site.start()
        try:
            yield site
        finally:
            await runner.cleanup()


def url_of(site: web.TCPSite) -> str:
    assert site._server is not None
    return f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"


def remote(url: str, *, key: str | None = "secret", fingerprint: Any = SETTINGS) -> RemoteJudge:
    return RemoteJudge(url, key=key, grading_fingerprint=fingerprint)


def run(scenario: Any) -> Any:
    return asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_remote_verdict_is_that_of_the_verifier():
    async def scenario() -> None:
        async with (
            server() as site,
            Judge([remote(url_of(site))], max_retries=1, wait_s=0.0) as judge,
        ):
            right, wrong = [await judge.grade(PROBLEM, answering(text)) for text in ("fine", "no")]
            assert (right.verdict.correct, wrong.verdict.correct) == (True, False)
            assert right.seconds > 0
            assert judge.stats().judged == 2

    run(scenario)


def test_local_and_remote_workers_share_the_work():
    async def scenario() -> set[str]:
        async with (
            server() as site,
            Judge([WorkerPool(POOL), remote(url_of(site))], max_retries=1, wait_s=0.0) as judge,
        ):
            texts = ["take a while"] * 6
            verdicts = await asyncio.gather(*(judge(PROBLEM, answering(text)) for text in texts))
            return {str(verdict.answer) for verdict in verdicts}

    assert len(run(scenario)) == 2  # process ids


def test_a_failing_verifier_is_the_same_named_error_from_afar():
    async def scenario() -> None:
        async with (
            server() as site,
            Judge([remote(url_of(site))], max_retries=1, wait_s=0.0) as judge,
        ):
            with pytest.raises(VerifierError, match=r"p7.*2 attempts.*on purpose"):
                await judge(PROBLEM, answering("raise"))
            assert (await judge(PROBLEM, answering("fine"))).correct

    run(scenario)


def test_a_wrong_key_is_refused_at_the_start_and_never_repeated():
    async def scenario() -> None:
        async with server() as site:
            for key in (None, "wrong"):
                with pytest.raises(VerifierError, match=r"does not accept our key") as caught:
                    async with Judge([remote(url_of(site), key=key)], max_retries=0, wait_s=0.0):
                        pass
                assert "wrong" not in str(caught.value)

    run(scenario)


def test_a_judge_with_other_settings_is_refused():
    async def scenario() -> None:
        async with server() as site:
            other = remote(url_of(site), fingerprint={"from": "elsewhere"})
            with pytest.raises(VerifierError, match="would grade differently"):
                async with Judge([other], max_retries=0, wait_s=0.0):
                    pass

    run(scenario)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"response": {}}', b'{"problem": {}, "response": {}}']
)
def test_a_request_that_is_no_question_is_a_clean_400(body):
    async def scenario() -> int:
        async with (
            server(key=None) as site,
            aiohttp.ClientSession() as session,
            session.post(url_of(site) + "/judge", data=body) as response,
        ):
            return response.status

    assert run(scenario) == 400


def test_a_server_that_goes_away_costs_nothing_while_another_is_there():
    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            dying = await stack.enter_async_context(server())
            other = await stack.enter_async_context(server())
            remotes = [remote(url_of(dying)), remote(url_of(other))]
            judge = await stack.enter_async_context(Judge(remotes, max_retries=0, wait_s=0.0))
            tasks = [
                asyncio.create_task(judge(PROBLEM, answering("take a while"))) for _ in range(8)
            ]
            await asyncio.sleep(0.05)
            assert dying._runner is not None
            await dying._runner.cleanup()
            verdicts = await asyncio.gather(*tasks)
            assert [verdict.answer is not None for verdict in verdicts] == [True] * 8
            assert judge.stats().errors == 0

    run(scenario)


def test_with_nobody_left_the_error_says_who_is_missing():
    async def scenario() -> None:
        async with Judge([remote("http://127.0.0.1:9")], max_retries=0, wait_s=0.1) as judge:
            with pytest.raises(VerifierError, match=r"no judge is left of: http://127.0.0.1:9"):
                await judge(PROBLEM, answering("fine"))

    run(scenario)


def test_a_server_that_comes_late_is_used(unused_port: int):
    async def scenario() -> None:
        late = remote(f"http://127.0.0.1:{unused_port}")
        async with Judge([late], max_retries=0, wait_s=30.0) as judge:
            asking = asyncio.create_task(judge(PROBLEM, answering("fine")))
            await asyncio.sleep(0.1)
            async with server(port=unused_port):
                assert (await asking).correct

    run(scenario)


@contextlib.asynccontextmanager
async def faulty_server(health: str, verdict: str) -> AsyncIterator[str]:
    """Answer with these bodies, whatever is asked; yields the URL."""

    async def answer(request: web.Request) -> web.Response:
        body = health if request.path == "/health" else verdict
        return web.Response(text=body, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield url_of(site)
    finally:
        await runner.cleanup()


HEALTHY = '{"num_workers": 2, "grading_fingerprint": {"from": "the judge"}}'
RIGHT = '{"verdict": {"format_ok": true, "correct": true}, "seconds": 1}'
NONSENSE = ["", "{", "[]", "null", "7", '"failure"', "{}", "[" * 100_000, "\ud7ff"]
NO_VERDICTS = [
    '{"verdict": {}, "seconds": 1}',
    '{"verdict": {"format_ok": true, "correct": true, "bonus": 1}, "seconds": 1}',
    '{"verdict": {"format_ok": true, "correct": null}, "seconds": 1}',
    '{"verdict": {"format_ok": true, "correct": true}}',
    '{"verdict": {"format_ok": true, "correct": true}, "seconds": "many"}',
    '{"failure": "so sorry"}',
]
UNHEALTHY = [
    '{"num_workers": 2}',
    '{"grading_fingerprint": {"from": "the judge"}, "num_workers": "two"}',
]


@pytest.mark.parametrize("verdict", [*NONSENSE, *NO_VERDICTS], ids=lambda text: text[:60])
def test_a_judge_that_answers_nonsense_is_named_and_another_is_asked(verdict):
    async def scenario() -> None:
        async with faulty_server(HEALTHY, verdict) as bad, faulty_server(HEALTHY, RIGHT) as good:
            async with remote(bad) as faulty:
                with pytest.raises(AttemptFailed, match=f"{bad} gave an answer .* no sense") as it:
                    await faulty.attempt(PROBLEM, answering("fine"), order=0, is_retry=False)
                assert it.value.is_infrastructure_failure
                assert faulty.capacity == 0
            backends = [remote(bad), remote(good)]
            async with Judge(backends, max_retries=0, wait_s=5.0) as judge:
                assert (await judge(PROBLEM, answering("fine"))).correct

    run(scenario)


@pytest.mark.parametrize("health", [*NONSENSE, *UNHEALTHY], ids=lambda text: text[:60])
def test_a_judge_of_unknown_health_is_not_used(health, caplog):
    async def scenario() -> None:
        async with (
            faulty_server(health, RIGHT) as bad,
            Judge([remote(bad)], max_retries=0, wait_s=0.1) as judge,
        ):
            assert f"{bad} gave an answer that makes no sense" in caplog.text
            with pytest.raises(VerifierError, match=f"no judge is left of: {bad}"):
                await judge(PROBLEM, answering("fine"))

    run(scenario)


def test_a_server_with_the_former_field_names_is_understood():
    health = '{"num_workers": 2, "terms": {"from": "the judge"}}'
    failure = '{"failure": "its process was killed", "is_innocent": true}'

    async def scenario() -> None:
        async with faulty_server(health, failure) as url, remote(url) as former:
            assert former.capacity == 2
            with pytest.raises(AttemptFailed, match="its process was killed") as caught:
                await former.attempt(PROBLEM, answering("fine"), order=0, is_retry=False)
            assert caught.value.is_infrastructure_failure

    run(scenario)


def test_a_client_with_the_former_field_names_is_served():
    problem = {"id": "p7", "text": "?", "answer": "fine", "extra": {"unit": "cm"}}

    def question(answer: str) -> dict[str, Any]:
        return dataclasses.asdict(answering(answer))

    async def scenario() -> None:
        async with server(key=None) as site, aiohttp.ClientSession(url_of(site)) as session:
            async with session.get("/health") as response:
                assert (await response.json())["terms"] == SETTINGS
            body = {"problem": problem, "response": question("fine"), "is_suspect": False}
            async with session.post("/judge", json=body) as response:
                assert (await response.json())["verdict"]["correct"]
            async with session.post(
                "/judge", json={**body, "response": question("raise")}
            ) as response:
                assert (await response.json())["is_innocent"] is False

    run(scenario)


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
