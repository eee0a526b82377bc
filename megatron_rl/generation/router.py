"""Router of completions: spreads them over routable servers, and moves them when one fails."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

import aiohttp

from megatron_rl.errors import GeneratorUnavailableError
from megatron_rl.generation.client import SGLangClient
from megatron_rl.generation.router_stats import RouterSnapshot, RouterStats
from megatron_rl.registry import (
    PolicyState,
    ServerInfo,
    read_policy_state,
    registered_servers,
    routable_servers,
    standalone_servers,
)
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Completion, Sampling

logger = logging.getLogger(__name__)

Admit = Literal["acknowledged", "standalone"]

# A server that failed is passed over this long: enough for `serve` to notice and unregister it.
_DISTRUST_S = 5.0


@dataclass(slots=True, eq=False)
class _Server:
    info: ServerInfo
    client: SGLangClient
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: int = 0
    num_leases: int = 0
    distrusted_until: float = 0.0


class Lease:
    """A ``GenerateFn`` that stays with one server, whose prefix cache a group's calls share."""

    def __init__(self, router: "Router", server: _Server) -> None:
        self._router = router
        self._server = server

    @property
    def server_name(self) -> str:
        """Name of the server the next call goes to, unless that server fails before."""
        return self._server.info.name

    async def __call__(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> Completion:
        """Sample one completion; when its server fails, the completion starts anew on another one.

        Raises:
            GeneratorRequestError: the request is refused or takes too long, as on any server.
            GeneratorUnavailableError: too many servers failed, or none has become routable.
        """
        for _ in range(self._router.max_attempts):
            if not self._router.is_usable(self._server):
                self._server = await self._router.choose()
            try:
                return await self._router.generate_on(
                    self._server, prompt_ids, sampling, request_id=request_id
                )
            except GeneratorUnavailableError as error:
                failure = error
                logger.warning("%s leaves %s: %s", request_id, self.server_name, error)
        raise failure


class Router:
    """The routable servers of a run folder; servers register, acknowledge weights and leave."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        admit: Admit,
        max_attempts: int,
        backoff_s: float,
        request_timeout_s: float,
        wait_timeout_s: float,
        poll_s: float,
    ) -> None:
        """Prepare; ``async with`` opens the connections.

        Args:
            run_dir: folder in which servers register.
            admit: ``acknowledged`` uses servers that acknowledged the published policy version;
                ``standalone`` those that serve the weights of a folder, as without a learner.
            max_attempts: attempts on one server, and servers tried, before a completion fails.
            backoff_s: first pause between attempts; doubles each time.
            request_timeout_s: longest time one completion may take on one server.
            wait_timeout_s: longest wait for a routable server when there is none.
            poll_s: seconds between two reads of the folder.
        """
        self.max_attempts = max_attempts
        self._run_dir = run_dir
        self._admit = admit
        self._backoff_s = backoff_s
        self._request_timeout_s = request_timeout_s
        self._wait_timeout_s = wait_timeout_s
        self._poll_s = poll_s
        self._servers: dict[str, _Server] = {}
        self._state: PolicyState | None = None
        self._changed = asyncio.Event()
        self._stats = RouterStats(clock=_now)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        self._update(*self._read())
        self._poller = asyncio.create_task(self._poll(), name="router-poll")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._poller.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._poller
        await self._session.close()

    async def lease(self) -> Lease:
        """Return a ``GenerateFn`` bound to the least loaded server; wait when there is none.

        Raises:
            GeneratorUnavailableError: no server has become routable in time; says why.
        """
        server = await self.choose()
        server.num_leases += 1
        return Lease(self, server)

    def current_version(self) -> int | None:
        """Return the published policy version, None before the first publication."""
        return None if self._state is None else self._state.version

    def snapshot(self) -> RouterSnapshot:
        """Return the counters of this moment."""
        return self._stats.snapshot(num_routable=len(self._servers))

    def is_usable(self, server: _Server) -> bool:
        """Return whether ``server`` is routable and has not just failed."""
        return not server.gone.is_set() and server.distrusted_until <= _now()

    async def choose(self) -> _Server:
        """Return the usable server with the fewest completions in flight, then fewest leases."""
        deadline = _now() + self._wait_timeout_s
        while True:
            usable = [server for server in self._servers.values() if self.is_usable(server)]
            if usable:
                return min(usable, key=lambda server: (server.in_flight, server.num_leases))
            if self._poller.done():
                self._poller.result()  # raises what ended it
            if _now() >= deadline:
                raise GeneratorUnavailableError(
                    f"no generation server for {self._wait_timeout_s} s: {self._why_none()}"
                )
            with contextlib.suppress(TimeoutError):
                # Distrust ends without any change in the folder, so check again after each poll.
                await asyncio.wait_for(self._changed.wait(), self._poll_s)

    async def generate_on(
        self,
        server: _Server,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        request_id: str,
    ) -> Completion:
        """Sample on one server, and give up as soon as it is no longer routable."""
        self._stats.begin()
        server.in_flight += 1
        version = self.current_version()
        cache_key = None if version is None else str(version)
        call = asyncio.ensure_future(
            server.client.generate(prompt_ids, sampling, request_id=request_id, cache_key=cache_key)
        )
        gone = asyncio.ensure_future(server.gone.wait())
        try:
            await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise GeneratorUnavailableError(f"{server.info.name} is no longer routable")
            completion = call.result()
        except GeneratorUnavailableError:
            server.distrusted_until = _now() + _DISTRUST_S
            self._stats.move()
            raise
        finally:
            call.cancel()
            gone.cancel()
            server.in_flight -= 1
            self._stats.end()
        self._stats.finish(num_tokens=len(completion.token_ids))
        return completion

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                view = await asyncio.to_thread(self._read)
            except (
                OSError
            ) as error:  # a shared file system may fail for a moment; the last view stands
                logger.warning("cannot read %s: %s", self._run_dir.root, error)
                continue
            self._update(*view)

    def _read(self) -> tuple[PolicyState | None, dict[str, ServerInfo]]:
        if self._admit == "standalone":
            return None, standalone_servers(self._run_dir)
        return read_policy_state(self._run_dir), routable_servers(self._run_dir)

    def _update(self, state: PolicyState | None, infos: dict[str, ServerInfo]) -> None:
        self._state = state
        for name, server in list(self._servers.items()):
            if name not in infos or infos[name].incarnation != server.info.incarnation:
                server.gone.set()
                del self._servers[name]
        new = infos.keys() - self._servers.keys()
        # A new server starts with as many leases as the others, or it would get every new one.
        num_leases = max((server.num_leases for server in self._servers.values()), default=0)
        for name in sorted(new):
            client = self._client(infos[name])
            self._servers[name] = _Server(infos[name], client, num_leases=num_leases)
        if new:
            self._changed.set()
            self._changed = asyncio.Event()

    def _client(self, info: ServerInfo) -> SGLangClient:
        return SGLangClient(
            self._session,
            info.url,
            api_key=info.api_key,
            max_attempts=self.max_attempts,
            backoff_s=self._backoff_s,
            timeout_s=self._request_timeout_s,
        )

    def _why_none(self) -> str:
        registered = sorted(registered_servers(self._run_dir))
        if self._servers:
            return f"every routable server failed: {', '.join(sorted(self._servers))}"
        if not registered:
            return f"none is registered in {self._run_dir.servers}; is `megatron-rl serve` running?"
        if self._state is None:
            return f"{', '.join(registered)} wait for the learner's first weights"
        return (
            f"{', '.join(registered)} did not acknowledge policy version {self._state.version} "
            f"({self._run_dir.policy})"
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
