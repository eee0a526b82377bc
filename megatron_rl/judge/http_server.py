"""HTTP server of a pool of verifier processes, for judges of other machines.

``GET /health`` returns ``{"num_workers", "grading_fingerprint"}``. ``POST /judge`` takes
``{"problem", "response", "is_retry"}`` and returns a verdict, or the reason why this one attempt
failed. Retrying is up to the client, which may have another machine to ask.
"""

import dataclasses
import hmac
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from megatron_rl.judge import http_fields
from megatron_rl.judge.http_fields import read_field, under_both_names
from megatron_rl.judge.worker_handle import AttemptFailed
from megatron_rl.judge.worker_pool import WorkerPool
from megatron_rl.types import Problem, Response

_MAX_REQUEST_BYTES = 64 << 20
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(
    pool: WorkerPool, *, grading_fingerprint: Mapping[str, Any], key: str | None
) -> web.Application:
    """Return the application that serves ``pool``.

    Args:
        pool: open, and kept open as long as the application runs.
        grading_fingerprint: the settings that verdicts depend on, plain JSON.
        key: bearer token that requests must carry; None for no token.
    """
    orders = itertools.count()

    async def health(request: web.Request) -> web.Response:
        fingerprint = under_both_names(http_fields.GRADING_FINGERPRINT, dict(grading_fingerprint))
        return web.json_response({"num_workers": pool.capacity, **fingerprint})

    async def judge(request: web.Request) -> web.Response:
        try:
            body = await request.json()
            problem, response = Problem(**body["problem"]), Response(**body["response"])
            is_retry = bool(read_field(body, http_fields.IS_RETRY))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise web.HTTPBadRequest(text=f"not a question to a judge: {error!r}") from None
        try:
            graded = await pool.attempt(problem, response, order=next(orders), is_retry=is_retry)
        except AttemptFailed as error:
            blame = under_both_names(
                http_fields.IS_INFRASTRUCTURE_FAILURE, error.is_infrastructure_failure
            )
            return web.json_response({"failure": str(error), **blame})
        return web.json_response(
            {"verdict": dataclasses.asdict(graded.verdict), "seconds": graded.seconds}
        )

    app = web.Application(client_max_size=_MAX_REQUEST_BYTES, middlewares=[_asking_for(key)])
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
