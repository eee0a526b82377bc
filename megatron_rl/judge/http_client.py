"""HTTP client of a judge server: one attempt is one request, and a heartbeat watches the server.

When the server dies, or stops answering the heartbeat, its attempts count as infrastructure
failures and another server judges their responses. A server that comes back is used again.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from megatron_rl.errors import VerifierError
from megatron_rl.judge import http_fields
from megatron_rl.judge.http_fields import read_field, under_both_names
from megatron_rl.judge.worker_handle import AttemptFailed
from megatron_rl.judge.worker_pool import Graded
from megatron_rl.types import Problem, Response, Verdict

_HEARTBEAT_S = 1.0
_HEARTBEAT_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 5.0

# What reading JSON of another shape than expected raises.
_MALFORMED = (KeyError, TypeError, ValueError)

logger = logging.getLogger(__name__)


class RemoteJudge:
    """One judge server. Use as an async context manager."""

    def __init__(
        self, url: str, *, key: str | None, grading_fingerprint: Mapping[str, Any]
    ) -> None:
        """Connect to nothing yet.

        Args:
            url: ``http://HOST:PORT``.
            key: API key of the server; None if it asks for none.
            grading_fingerprint: settings that the server must grade by, plain JSON.
        """
        self.name = url
        self.capacity = 0
        """Verdicts at a time; 0 while the server is away."""
        self.in_flight = 0
        """Responses sent and not judged yet."""
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._grading_fingerprint = dict(grading_fingerprint)
        self._session: aiohttp.ClientSession | None = None
        self._heartbeat: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    @property
    def num_waiting(self) -> int:
        """Responses beyond those that the server judges at a time."""
        return max(0, self.in_flight - self.capacity)

    async def __aenter__(self) -> Self:
        """Connect; raise VerifierError if the server refuses the key or grades differently."""
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),
        )
        try:
            await self._check_health()
        except (AttemptFailed, TimeoutError) as error:
            logger.warning("%r; going on without it until it answers", error)
        except BaseException:
            await self._session.close()
            raise
        self._heartbeat = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections; requests under way fail."""
        assert self._session is not None and self._heartbeat is not None
        self._heartbeat.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._heartbeat
        self._note_loss()
        await self._session.close()

    async def attempt(
        self, problem: Problem, response: Response, *, order: int, is_retry: bool
    ) -> Graded:
        """Judge ``response`` once on the server, or raise AttemptFailed.

        ``order`` is not sent: the server judges in the order of requests.
        """
        body = {
            "problem": dataclasses.asdict(problem),
            "response": dataclasses.asdict(response),
            **under_both_names(http_fields.IS_RETRY, is_retry),
        }
        self.in_flight += 1
        lost = asyncio.ensure_future(self._lost.wait())
        posting = asyncio.ensure_future(self._post("/judge", body))
        try:
            await asyncio.wait({posting, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not posting.done():
                raise self._server_lost("stopped answering")
            reply = posting.result()
        finally:
            self.in_flight -= 1
            lost.cancel()
            posting.cancel()
            await asyncio.gather(lost, posting, return_exceptions=True)
        try:
            graded = _read_reply(reply)
        except _MALFORMED as error:
            raise self._malformed(error) from None
        if isinstance(graded, Graded):
            return graded
        message, is_infrastructure_failure = graded
        raise AttemptFailed(
            f"{self.name}: {message}", is_infrastructure_failure=is_infrastructure_failure
        )

    async def _check_health(self) -> None:
        """Note the number of workers; AttemptFailed without an answer, VerifierError if unfit."""
        async with asyncio.timeout(_HEARTBEAT_TIMEOUT_S):
            health = await self._get("/health")
        try:
            fingerprint = read_field(health, http_fields.GRADING_FINGERPRINT)
            num_workers = int(health["num_workers"])
        except _MALFORMED as error:
            raise self._malformed(error) from None
        if fingerprint != self._grading_fingerprint:
            raise VerifierError(
                f"the judge at {self.name} would grade differently: by "
                f"{json.dumps(fingerprint)}, this run by {json.dumps(self._grading_fingerprint)}; "
                "start it with the same [judge] and [reward] sections (--config), of this release"
            )
        self.capacity = num_workers

    async def _watch(self) -> None:
        is_missing = self.capacity == 0
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            try:
                await self._check_health()
            except (AttemptFailed, VerifierError, TimeoutError) as error:
                if not is_missing:
                    logger.warning("the judge at %s is lost: %s", self.name, error)
                    self._note_loss()
                is_missing = True
            else:
                if is_missing:
                    logger.info("the judge at %s is here, %d workers", self.name, self.capacity)
                is_missing = False

    def _note_loss(self) -> None:
        self.capacity = 0
        self._lost.set()
        self._lost = asyncio.Event()

    def _server_lost(self, how: str) -> AttemptFailed:
        return AttemptFailed(f"the judge at {self.name} {how}", is_infrastructure_failure=True)

    def _malformed(self, error: Exception) -> AttemptFailed:
        """Return the failure for a reply that no judge server gives; another server may judge."""
        self.capacity = 0  # until a heartbeat finds the server in order again
        return self._server_lost(f"gave an answer that makes no sense: {error!r}")

    async def _get(self, route: str) -> Any:
        return await self._request("GET", route, None)

    async def _post(self, route: str, body: Mapping[str, Any]) -> Any:
        return await self._request("POST", route, body)

    async def _request(self, method: str, route: str, body: Mapping[str, Any] | None) -> Any:
        assert self._session is not None
        try:
            async with self._session.request(method, self.name + route, json=body) as response:
                if response.status == 200:
                    return await response.json()
                complaint = (await response.text())[:200]
        except (aiohttp.ContentTypeError, ValueError, RecursionError) as error:  # not JSON
            raise self._malformed(error) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            self.capacity = 0  # until a heartbeat finds the server again
            raise self._server_lost(f"cannot be reached: {error!r}") from None
        if response.status == 401:
            raise VerifierError(
                f"the judge at {self.name} does not accept our key; set judge.key_file"
            )
        raise AttemptFailed(f"{self.name}: HTTP {response.status}: {complaint}")


def _read_reply(reply: Any) -> Graded | tuple[str, bool]:
    """Return the verdict, or why there is none and whether the infrastructure is to blame."""
    if "failure" in reply:
        is_infrastructure_failure = read_field(reply, http_fields.IS_INFRASTRUCTURE_FAILURE)
        return str(reply["failure"]), bool(is_infrastructure_failure)
    verdict = Verdict(**reply["verdict"])
    if not (isinstance(verdict.correct, bool) and isinstance(verdict.format_ok, bool)):
        raise ValueError(f"neither right nor wrong: {verdict.correct!r}")
    return Graded(verdict=verdict, seconds=float(reply["seconds"]))
