"""A pool of verifier processes behind HTTP, for judges of other machines.

``GET /health`` says how many workers there are and what they grade by. ``POST /judge`` takes
``{"problem", "text", "is_suspect"}`` and answers with a verdict, or with why this one attempt came
to nothing. Retrying is up to the other side, which may have another machine to ask.
"""

import dataclasses
import hmac
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from megatron_rl.judge.worker_handle import AttemptFailed
from megatron_rl.judge.worker_pool import WorkerPool
from megatron_rl.types import Problem

_MOST_BYTES = 64 << 20
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(pool: WorkerPool, *, terms: Mapping[str, Any], key: str | None) -> web.Application:
    """Return the application that serves ``pool``.

    Args:
        pool: open, and kept open as long as the application runs.
        terms: what it grades by, plain JSON.
        key: what requests must carry as a bearer token; None asks for nothing.
    """
    orders = itertools.count()

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"num_workers": pool.capacity, "terms": dict(terms)})

    async def judge(request: web.Request) -> web.Response:
        try:
            body = await request.json()
            problem, text = Problem(**body["problem"]), str(body["text"])
            is_suspect = bool(body["is_suspect"])
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise web.HTTPBadRequest(text=f"not a question to a judge: {error!r}") from None
        try:
            graded = await pool.attempt(problem, text, order=next(orders), is_suspect=is_suspect)
        except AttemptFailed as error:
            return web.json_response({"failure": str(error), "is_innocent": error.is_innocent})
        return web.json_response(
            {"verdict": dataclasses.asdict(graded.verdict), "seconds": graded.seconds}
        )

    app = web.Application(client_max_size=_MOST_BYTES, middlewares=[_asking_for(key)])
    app.router.add_get("/health", health)
    app.router.add_post("/judge", judge)
    return app


def _asking_for(key: str | None) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if key is not None:
            given = request.headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {key}".encode()):
                raise web.HTTPUnauthorized(text="the key is missing or wrong")
        return await handler(request)

    return check
