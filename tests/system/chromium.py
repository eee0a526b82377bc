"""A headless Chromium that a test drives over its DevTools protocol."""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from megatron_rl.process_lifetime import start_guard

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
_START_S = 60.0
_WITHIN_S = 120.0
"""Guards, not promises: a busy machine may take long."""


class Page:
    """One tab. What its console and its security policy complain about is in ``complaints``."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, process_group: int) -> None:
        self._socket = socket
        self._process_group = process_group
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []

    async def listen(self) -> None:
        """Take in what the browser says, until it is closed."""
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(said["params"]["exceptionDetails"]))
            elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
                self.complaints.append(str(said["params"]["entry"]))

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command of the protocol and return its result."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await asyncio.wait_for(self._answers[number], _WITHIN_S)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, (expression, result)
        return result["result"].get("value")

    async def resize(self, width: int, height: int, *, is_phone: bool) -> None:
        """Give the page another screen."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=is_phone,
        )  # fmt: skip

    async def open(self, address: str) -> float:
        """Load a report page and return the seconds until the plots on the screen are drawn."""
        started = time.monotonic()
        await self.call("Page.navigate", url=address)
        await self.until("document.readyState === 'complete' && !!document.querySelector('#plots')")
        await self.until(
            "!!window.Plotly && [...document.querySelectorAll('.figure')]"
            ".filter((figure) => figure.getBoundingClientRect().top < innerHeight)"
            ".every((figure) => figure.querySelector('.main-svg'))"
        )
        return time.monotonic() - started

    def cpu_s(self) -> float:
        """Return the CPU time that the browser's processes have taken so far."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[2]) == self._process_group:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    async def until(self, condition: str) -> None:
        """Wait until a JavaScript condition holds."""
        await eventually(lambda: self.evaluate(condition), condition)


async def eventually(look: Callable[[], Awaitable[Any]], what: str) -> None:
    """Wait until ``look`` returns something true."""
    deadline = time.monotonic() + _WITHIN_S
    while not await look():
        assert time.monotonic() < deadline, f"not within {_WITHIN_S} s: {what}"
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def browser_page() -> AsyncIterator[Page]:
    """Start a browser with one empty tab, and end it."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [
            "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}",
            "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
            "--disable-background-networking", "--window-size=1280,900",
        ]  # fmt: skip
        # Chromium's own sandbox refuses root, as which containers run.
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        guard = start_guard()  # a test that is killed takes the browser with it
        process = await asyncio.create_subprocess_exec(
            CHROMIUM, *options, "about:blank",
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, process_group=guard.pid,
        )  # fmt: skip
        try:
            port = await asyncio.wait_for(_port(process), _START_S)
            drain = asyncio.create_task(_drain(process))
            async with aiohttp.ClientSession() as session, _tab(session, port, guard.pid) as page:
                yield page
            drain.cancel()
        finally:
            os.killpg(guard.pid, signal.SIGKILL)
            guard.wait()
            await process.wait()


@contextlib.asynccontextmanager
async def _tab(
    session: aiohttp.ClientSession, port: int, process_group: int
) -> AsyncIterator[Page]:
    async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
        (tab,) = [found for found in await response.json() if found["type"] == "page"]
    async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
        page = Page(socket, process_group)
        listening = asyncio.create_task(page.listen())
        for domain in ("Page", "Runtime", "Log"):
            await page.call(f"{domain}.enable")
        yield page
        listening.cancel()


async def _port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    async for line in process.stderr:
        if found := re.search(rb"DevTools listening on ws://127\.0\.0\.1:(\d+)/", line):
            return int(found[1])
    raise AssertionError("Chromium ended at once")


async def _drain(process: asyncio.subprocess.Process) -> None:
    """Keep its error output from filling the pipe."""
    assert process.stderr is not None
    while await process.stderr.read(1 << 16):
        pass
