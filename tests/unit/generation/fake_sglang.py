"""A small HTTP server that speaks SGLang's format and fails on command."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

from aiohttp import web

KEY = "the-key"
Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(
    tokens: Sequence[tuple[float, int]] = ((-0.5, 7),),
    spans: Sequence[tuple[str, int, int]] | None = None,
    finish: str = "stop",
) -> dict[str, Any]:
    """Return what /generate answers: (logprob, id) per token, (version, start, end) per span."""
    return {
        "meta_info": {
            "finish_reason": {"type": finish},
            "output_token_logprobs": [[logprob, token, None] for logprob, token in tokens],
            "weight_versions": [
                {"version": version, "start": start, "end": end}
                for version, start, end in spans or [("0", 0, len(tokens))]
            ],
        }
    }


def replies(body: Any = None, **changes: Any) -> Behaviour:
    """Answer at once, with ``body`` if there is one."""

    async def behave(request: web.Request) -> web.StreamResponse:
        return web.json_response(answer(**changes) if body is None else body)

    return behave


def fails(status: int, text: str = "no") -> Behaviour:
    """Answer with an HTTP error."""

    async def behave(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text)

    return behave


async def hangs(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.sleep(3600)
    raise AssertionError("unreachable")


async def resets(request: web.Request) -> web.StreamResponse:
    """Drop the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def breaks_off(request: web.Request) -> web.StreamResponse:
    """Announce a long answer and drop the connection in the middle of it."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"meta')
    assert request.transport is not None
    request.transport.close()
    return response


class FakeSGLang:
    """Behaves as told for each request in turn, and the last way from then on."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self._behaviours = list(behaviours) or [replies()]
        self.requests: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/generate", self._generate)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def become(self, behaviour: Behaviour) -> None:
        """Behave differently from now on."""
        self._behaviours = [behaviour]

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.Response(status=401)
        self.requests.append(await request.json())
        behave = self._behaviours.pop(0) if len(self._behaviours) > 1 else self._behaviours[0]
        return await behave(request)
