import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientResponse, ClientSession
from aiohttp.test_utils import TestServer

from megatron_rl.registry import PolicyState, ServerInfo, publish_policy_state, register_server
from megatron_rl.report.live.samples import RecordedSamples
from megatron_rl.report.live.server import LiveServer
from megatron_rl.run_dir import RunDir, append_jsonl, write_json
from tests.unit.report.live.recorded import RIGHT, WRONG, decode, sample_of, write_batch

KEY = "a-key-of-this-test"
_HANGS_AFTER_S = 50.0
SERVER_KEY, JUDGE_KEY = "key-of-a-server", "key-of-a-judge"


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    write_json(run_dir.config, {"num_steps": 4, "sft": None})
    for step in (1, 2):
        append_jsonl(run_dir.metrics, {"step": step, "time": step, "reward/total": 0.5})
    info = ServerInfo(
        name="server_0", incarnation="one", url="http://127.0.0.1:1", api_key=SERVER_KEY, pid=1,
        tp=1, starts_without_weights=True, takes_shards=False,
    )  # fmt: skip
    register_server(run_dir, info)
    publish_policy_state(run_dir, PolicyState(version=1, servers={"server_0": "one"}))
    write_batch(run_dir, 0, sample_of("right <b>", RIGHT), sample_of("wrong", WRONG))
    run_dir.logs.mkdir()
    (run_dir.logs / "learn_0.log").write_text(f"{SERVER_KEY} {JUDGE_KEY} {KEY} <i>\n")
    (run_dir.root / "secret.txt").write_text("not a log")
    return run_dir


Get = Callable[..., Awaitable[ClientResponse]]


@asynccontextmanager
async def served(run_dir: RunDir) -> AsyncIterator[Get]:
    live = LiveServer(
        run_dir, RecordedSamples(run_dir, decode), key=KEY, hidden_texts=lambda: [JUDGE_KEY]
    )
    async with TestServer(live.make_app()) as server, ClientSession() as session:

        async def ask(
            path: str, *, method: str = "GET", key: str | None = KEY, headers=None, **fields: str
        ) -> ClientResponse:
            params = fields if key is None else {**fields, "key": key}
            return await session.request(
                method, server.make_url(path), params=params, headers=headers
            )

        yield ask


def run(test: Callable[[Get], Awaitable[None]], run_dir: RunDir) -> None:
    async def main() -> None:
        async with asyncio.timeout(_HANGS_AFTER_S), served(run_dir) as get:
            await test(get)

    asyncio.run(main())


PATHS = ["/", "/plotly.js", "/events", "/samples", "/sample", "/log", "/stacks"]


def test_nothing_is_shown_without_the_key(run_dir: RunDir):
    async def check(get: Get) -> None:
        for path in [*PATHS, "/nowhere"]:
            for key in (None, "", KEY[:-1], KEY + "x", "\u00e9"):
                response = await get(path, key=key)
                assert response.status == 403, path
                assert KEY not in await response.text()

    run(check, run_dir)


def test_nothing_but_get_is_answered(run_dir: RunDir):
    async def check(get: Get) -> None:
        for path in PATHS:
            for method in ("POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"):
                assert (await get(path, method=method)).status == 405, (path, method)
        assert (await get("/nowhere")).status == 404

    run(check, run_dir)


def test_the_page_is_that_of_the_report_and_may_load_nothing_else(run_dir: RunDir):
    async def check(get: Get) -> None:
        response = await get("/")
        page = await response.text()
        assert response.status == 200 and 'id="plot-reward"' in page and "version 1" in page
        policy = response.headers["Content-Security-Policy"]
        nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)
        assert nonce is not None and policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy and "connect-src 'self'" in policy
        assert set(re.findall(r"<script[^>]*nonce=\"([\w-]+)\"", page)) == {nonce[1]}
        assert page.count("<script") == 2
        again = (await get("/")).headers["Content-Security-Policy"]
        assert again != policy
        for name, value in {
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }.items():
            assert response.headers[name] == value

    run(check, run_dir)


def test_the_page_has_the_scores_of_each_held_out_set(run_dir: RunDir):
    for place, name in enumerate(["aime24", "code"]):
        scores = {"pass@1": 0.5, "pass@k": 0.5, "maj@k": 0.5, "length_mean": 9.0}
        head = {"version": 0, "time": 1.0, "when": "before", "set": name, "place": place}
        append_jsonl(run_dir.evaluations, head | {"problems": 4, "k": 1} | scores)

    async def check(get: Get) -> None:
        page = await (await get("/")).text()
        assert "<td>aime24</td>" in page and "<td>code</td>" in page
        assert 'id="plot-evaluation"' in page and 'id="plot-evaluation-code"' in page

    run(check, run_dir)


def test_looking_changes_nothing_in_the_run_folder(run_dir: RunDir):
    def contents() -> dict[str, bytes]:
        paths = sorted(path for path in run_dir.root.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in paths}

    before = contents()

    async def check(get: Get) -> None:
        for path in ("/", "/samples", "/stacks"):
            assert (await get(path)).status == 200
        assert (await get("/sample", step="0", index="0")).status == 200

    run(check, run_dir)
    assert contents() == before


def test_a_log_is_shown_without_keys_and_nothing_but_logs(run_dir: RunDir):
    async def check(get: Get) -> None:
        response = await get("/log", name="learn_0.log")
        assert await response.text() == "<api key> <api key> <api key> <i>\n"
        assert response.content_type == "text/plain"
        for name in ("../secret.txt", "/etc/passwd", "", "learn_0.log/../../secret.txt"):
            assert (await get("/log", name=name)).status == 404, name

    run(check, run_dir)


def test_samples_are_listed_and_shown_in_full(run_dir: RunDir):
    async def check(get: Get) -> None:
        html = await (await get("/samples", verdict="right")).text()
        assert html.count("data-index") == 1
        assert "right &lt;b&gt;" not in html  # the text comes when it is asked for
        response = await get("/sample", step="0", index="0")
        assert "t &lt;b&gt;" in await response.text()
        assert response.headers["Content-Security-Policy"] == "default-src 'none'"
        assert (await get("/sample", step="9", index="0")).status == 404
        for fields in ({"step": "x"}, {"step": "-1"}, {"verdict": "odd"}, {"start": "1e3"}):
            response = await get("/samples", **fields)
            assert response.status == 400, fields

    run(check, run_dir)


async def next_event(response: ClientResponse) -> tuple[str, str, dict]:
    """Return kind, identifier and data of the next event."""
    fields = {"id": ""}
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name and value:
            fields[name] = value
        elif "event" in fields:
            return fields["event"], fields["id"], json.loads(fields["data"])
    raise AssertionError("the stream has ended")


async def events_until_seen(response: ClientResponse) -> tuple[list[tuple[str, dict]], str]:
    found = []
    while True:
        kind, identifier, data = await next_event(response)
        if kind == "seen":
            return found, identifier
        found.append((kind, data))


@pytest.mark.lengthy
def test_events_tell_what_is_new_and_go_on_after_a_break(run_dir: RunDir):
    async def check(get: Get) -> None:
        stream = await get("/events")
        assert stream.content_type == "text/event-stream"
        first, last_id = await events_until_seen(stream)
        assert "figures" in [kind for kind, _ in first]
        append_jsonl(run_dir.metrics, {"step": 3, "time": 3.0, "reward/total": 0.75})
        grown: list[tuple[str, dict]] = []
        while "reward" not in {name for kind, data in grown if kind == "curves" for name in data}:
            more, _ = await events_until_seen(stream)
            grown += more
        (change,) = [d for kind, d in grown if kind == "curves" and "reward" in d]
        points = {"keep": 2, "x": [3], "y": [0.75], "customdata": [0.75]}
        assert change["reward"][0].items() >= points.items()
        stream.close()
        # Connected anew, it gets what came since it was told the last time.
        again = await get("/events", headers={"Last-Event-ID": last_id})
        missed, _ = await events_until_seen(again)
        assert [d for kind, d in missed if kind == "curves" and "reward" in d] == [change]
        again.close()

    run(check, run_dir)


@pytest.mark.lengthy
def test_a_run_that_starts_later_is_followed_from_its_start(tmp_path: Path):
    run_dir = RunDir(tmp_path / "later")

    async def check(get: Get) -> None:
        assert "not started yet" in await (await get("/")).text()
        stream = await get("/events")
        await events_until_seen(stream)
        write_json(run_dir.config, {"num_steps": 4, "sft": None})
        while "step 0 of 4" not in await told_of(stream, "state"):
            pass
        stream.close()

    run(check, run_dir)


def test_several_browsers_are_served_and_none_is_waited_for_at_the_end(run_dir: RunDir):
    async def main() -> None:
        async with asyncio.timeout(_HANGS_AFTER_S), served(run_dir) as get:
            streams = [await get("/events") for _ in range(5)]
            for stream in streams:
                await events_until_seen(stream)

    asyncio.run(main())


@pytest.mark.lengthy
def test_what_cannot_be_read_is_said_and_the_rest_goes_on(run_dir: RunDir):
    async def check(get: Get) -> None:
        stream = await get("/events")
        await events_until_seen(stream)
        with run_dir.metrics.open("a") as file:
            file.write("<damaged>\n")
        told = await told_of(stream, "trouble")
        assert told.startswith(f"cannot read all of {run_dir.root}: ")
        append_jsonl(run_dir.metrics, {"step": 3, "time": 3.0, "reward/total": 0.5})
        assert await told_of(stream, "trouble") == ""
        assert "step 3 of 4" in await (await get("/")).text()
        stream.close()

    run(check, run_dir)


async def told_of(stream: ClientResponse, part: str) -> str:
    """Return a part as it is told of next."""
    while True:
        events, _ = await events_until_seen(stream)
        found = [d["html"] for kind, d in events if kind == "part" and d["id"] == part]
        if found:
            return found[-1]


@pytest.mark.lengthy
def test_a_step_that_takes_far_too_long_is_looked_into_without_being_asked(run_dir: RunDir):
    long_ago = time.time() - 1000
    metrics = {"step": 3, "time": long_ago, "reward/total": 0.5, "time/step_s": 1.0}
    append_jsonl(run_dir.metrics, metrics)
    os.utime(run_dir.policy, (long_ago, long_ago))

    async def check(get: Get) -> None:
        stream = await get("/events")
        while "This step takes long" not in (told := await told_of(stream, "hang")):
            pass
        assert "No process of this run is on" in told
        stream.close()

    run(check, run_dir)
