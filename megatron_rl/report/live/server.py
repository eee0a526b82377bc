"""HTTP server of the live page: read-only, for those who have the key."""

import asyncio
import contextlib
import functools
import gzip
import hmac
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from html import escape
from pathlib import Path

from aiohttp import web
from plotly.offline import get_plotlyjs

from megatron_rl.errors import MegatronRLError
from megatron_rl.report.completions import FLAWS
from megatron_rl.report.hang.forensics import Forensics, examine, forensics_html
from megatron_rl.report.live.board import Board
from megatron_rl.report.live.feed import Feed
from megatron_rl.report.live.logs import tail
from megatron_rl.report.live.page import live_page, live_policy
from megatron_rl.report.live.samples import Query, RecordedSamples
from megatron_rl.run_dir import RunDir

_LOG = logging.getLogger(__name__)
_POLL_S = 1.0
_HEARTBEAT_S = 15.0
"""A silent connection is ended by what lies between, and a browser that is gone is noticed."""
_EXAMINE_AGAIN_S = 60.0
_LEARNER_LOGS = ("learn", "sft")
_MAX_TEXT = 1000
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LiveServer:
    """The routes, and the loop that looks at the run folder while the server is up."""

    def __init__(
        self,
        run_dir: RunDir,
        samples: RecordedSamples,
        *,
        key: str,
        hidden_texts: Callable[[], Iterable[str]],
    ) -> None:
        """Serve one run.

        Args:
            samples: of the run.
            key: that every request must carry, of characters that an address may hold.
            hidden_texts: returns what logs may not show, besides the keys of servers.
        """
        self._run_dir = run_dir
        self._samples = samples
        self._key = key
        self._hidden_texts = hidden_texts
        self._board = Board(run_dir)
        self._feed = Feed()
        self._hang_html = ""
        self._trouble = ""
        self._changed = asyncio.Condition()
        self._is_closing = False
        self._examining = asyncio.Lock()

    def make_app(self) -> web.Application:
        """Return the application; nothing but GET is answered."""
        app = web.Application(middlewares=[self._guard])
        routes = {
            "/": self._page,
            "/plotly.js": self._plotly,
            "/events": self._events,
            "/samples": self._list_samples,
            "/sample": self._sample,
            "/log": self._log,
            "/stacks": self._stacks,
        }
        for path, handler in routes.items():
            app.router.add_get(path, handler, allow_head=False)
        app.cleanup_ctx.append(self._following)
        app.on_shutdown.append(self._close)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Let in who has the key, and put what protects a page into every answer."""
        given = request.query.get("key", "")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            text = "the key is missing or wrong: open the address that megatron-rl watch printed"
            return web.Response(status=403, text=text, headers=_HEADERS)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            return web.Response(status=error.status, text=error.text, headers=_HEADERS)
        except MegatronRLError as error:
            return web.Response(status=404, text=str(error), headers=_HEADERS)
        if not response.prepared:
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    async def _page(self, request: web.Request) -> web.Response:
        nonce = secrets.token_urlsafe(16)
        title = self._run_dir.root.name
        page = live_page(self._feed, title=title, nonce=nonce)
        response = web.Response(text=page, content_type="text/html")
        # A page cannot forbid by itself to be framed.
        policy = f"{live_policy(nonce)}; frame-ancestors 'none'"
        response.headers["Content-Security-Policy"] = policy
        response.enable_compression()
        return response

    async def _plotly(self, request: web.Request) -> web.Response:
        body = await asyncio.to_thread(_compressed_plotly)
        headers = {"Content-Encoding": "gzip", "Cache-Control": "private, max-age=86400"}
        return web.Response(body=body, content_type="text/javascript", headers=headers)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={**_HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        # The browser's own word counts: the address holds what the page was made with.
        seen = request.headers.get("Last-Event-ID", request.query.get("after", ""))
        with contextlib.suppress(ConnectionError):  # the page was closed
            await self._send_events(response, seen)
        return response

    async def _send_events(self, response: web.StreamResponse, seen: str) -> None:
        await response.write(b"retry: 1000\n\n")
        while not self._is_closing:
            last_id = self._feed.last_id
            if last_id != seen:
                events = "".join(self._feed.since(seen))
                await response.write(events.encode())
                seen = last_id
            elif not await self._wait_for_change(last_id):
                await response.write(b": still here\n\n")

    async def _wait_for_change(self, last_id: str) -> bool:
        """Wait until the feed has moved on; False when it did not for a while."""

        def has_changed() -> bool:
            return self._is_closing or self._feed.last_id != last_id

        try:
            async with asyncio.timeout(_HEARTBEAT_S), self._changed:
                await self._changed.wait_for(has_changed)
        except TimeoutError:
            return False
        return True

    async def _list_samples(self, request: web.Request) -> web.Response:
        step = request.query.get("step", "")
        verdict = request.query.get("verdict", "")
        if verdict not in ("", "right", "wrong", *FLAWS):
            raise web.HTTPBadRequest(text=f"verdict: {verdict!r} is none")
        query = Query(
            step=_whole_number("step", step) if step else None,
            verdict=verdict,
            text=request.query.get("text", "")[:_MAX_TEXT],
            start=_whole_number("start", request.query.get("start", "0")),
        )
        return _html(await asyncio.to_thread(self._samples.list_html, query))

    async def _sample(self, request: web.Request) -> web.Response:
        step, index = (_whole_number(n, request.query.get(n, "")) for n in ("step", "index"))
        return _html(await asyncio.to_thread(self._samples.body_html, step, index))

    async def _log(self, request: web.Request) -> web.Response:
        name = request.query.get("name", "")
        if name not in self._board.log_names:  # a path that leads elsewhere is none of them
            raise web.HTTPNotFound(text=f"no log {name!r}")
        try:
            return web.Response(text=await asyncio.to_thread(self._tail, name))
        except OSError as error:
            raise web.HTTPNotFound(text=f"{name}: {error.strerror}") from error

    async def _stacks(self, request: web.Request) -> web.Response:
        forensics = await self._examine()
        self._hang_html = forensics_html(forensics)
        return _html(self._hang_html)

    async def _examine(self) -> Forensics:
        async with self._examining:  # one look at a time, however many ask
            lines = await asyncio.to_thread(self._learner_lines)
            return await asyncio.to_thread(examine, self._run_dir.root, lines)

    def _learner_lines(self) -> list[str]:
        names = [n for n in self._board.log_names if Path(n).name.startswith(_LEARNER_LOGS)]
        lines = []
        for name in names:
            try:
                lines += self._tail(name).splitlines()
            except OSError:  # removed meanwhile
                continue
        return lines

    def _tail(self, name: str) -> str:
        hidden = {self._key, *self._board.server_keys, *self._hidden_texts()}
        return tail(self._run_dir.logs / name, secrets=hidden)

    async def _following(self, app: web.Application) -> AsyncIterator[None]:
        await asyncio.to_thread(_compressed_plotly)
        await self._follow_once()
        async with _running(self._follow()), _running(self._look_for_hangs()):
            yield

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            await self._follow_once()

    async def _follow_once(self) -> None:
        trouble = ""
        try:
            await asyncio.to_thread(self._board.refresh)
        except (OSError, ValueError) as error:  # a file system that is away, a damaged line
            trouble = f"cannot read all of {self._run_dir.root}: {error}"
        if trouble and trouble != self._trouble:
            _LOG.warning("%s", trouble)
        self._trouble = trouble
        parts = {**self._board.parts, "hang": self._hang_html, "trouble": escape(trouble)}
        drawing = self._board.drawing
        async with self._changed:
            if self._feed.update(parts, plots=drawing.plots, figures=drawing.figures):
                self._changed.notify_all()

    async def _look_for_hangs(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            if self._board.state.is_slow(time.time()):
                note = f"<p>This step takes long. At {time.strftime('%H:%M:%S')}:</p>"
                with contextlib.suppress(OSError):  # the same trouble that following tells of
                    self._hang_html = note + forensics_html(await self._examine())
                await asyncio.sleep(_EXAMINE_AGAIN_S)

    async def _close(self, app: web.Application) -> None:
        self._is_closing = True
        async with self._changed:
            self._changed.notify_all()


@contextlib.asynccontextmanager
async def _running(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _html(text: str) -> web.Response:
    response = web.Response(text=text, content_type="text/html")
    response.headers["Content-Security-Policy"] = "default-src 'none'"
    response.enable_compression()
    return response


def _whole_number(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 12:
        raise web.HTTPBadRequest(text=f"{name}: {text!r} is not a whole number >= 0")
    return int(text)


@functools.cache
def _compressed_plotly() -> bytes:
    return gzip.compress(get_plotlyjs().encode(), compresslevel=5)
