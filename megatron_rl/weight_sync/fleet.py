"""Fleet of servers: one order to all in parallel, and a pause that always ends."""

import contextlib
import logging
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from megatron_rl.errors import WeightSyncError
from megatron_rl.registry import PolicyState, ServerInfo, publish_policy_state
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.admin import ServerAdmin, ServerRefusedError

logger = logging.getLogger(__name__)

ORDER_TIMEOUT_S = 10.0
"""Longest time for orders that a living server answers in milliseconds."""
_MAX_DOUBLINGS = 5

T = TypeVar("T")


class Fleet:
    """The servers of one publication. A server that fails is logged and takes no further part."""

    def __init__(self, servers: Mapping[str, ServerInfo], *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.order_timeout_s = min(ORDER_TIMEOUT_S, timeout_s)
        self.members: dict[str, ServerAdmin] = {
            name: ServerAdmin(info) for name, info in servers.items()
        }
        self.dropped: dict[str, ServerAdmin] = {}
        """Servers that failed."""
        self.errors: dict[str, WeightSyncError] = {}
        """Why they did."""
        self._recorded: frozenset[str] = frozenset()
        self.pause_s = 0.0

    def incarnations(self) -> dict[str, str]:
        """Return the incarnation of every member by name."""
        return {name: server.info.incarnation for name, server in self.members.items()}

    def failed_since_recorded(self) -> dict[str, ServerAdmin]:
        """Return the servers that were dropped since the last call."""
        failed = {n: server for n, server in self.dropped.items() if n not in self._recorded}
        self._recorded = frozenset(self.dropped)
        return failed

    def order(self, call: Callable[[ServerAdmin], object]) -> None:
        """Call on every member in parallel; drop the members for which it raises."""
        self.drop(on_each(self.members, call))

    def drop(self, errors: Mapping[str, WeightSyncError]) -> None:
        """Leave the named members out from now on."""
        for name, error in errors.items():
            logger.error("publication goes on without server %s: %s", name, error)
            self.dropped[name] = self.members.pop(name)
            self.errors[name] = error

    @contextlib.contextmanager
    def part(self, names: Iterable[str]) -> Iterator["Fleet"]:
        """Yield a fleet of some members; those that fail in it are dropped from both."""
        members = [self.members[name] for name in names]
        part = Fleet({s.info.name: s.info for s in members}, timeout_s=self._timeout_s)
        try:
            yield part
        finally:
            for name, error in part.errors.items():
                self.dropped[name] = self.members.pop(name)
                self.errors[name] = error

    @contextlib.contextmanager
    def updating(
        self, *, up_to_date: Container[tuple[str, str]], version: int, announce: Callable[[], None]
    ) -> Iterator[None]:
        """Pause all members for new weights, and resume all, whatever happens in between.

        During the pause members are labelled as incomplete, so that no token of a server that fails
        half way counts as one of a policy; at the end they are labelled as ``version``.

        Args:
            version: label of the weights that the body sends to all members.
            announce: publishes which servers are left. Called once the members have resumed, and
                before the dropped servers resume: those must get no request any more.
            up_to_date: (name, incarnation) of servers that took part in the last publication. The
                running sequences and cached prefixes of any other are discarded: they may stem from
                a mixture of policies, or from another life of the learner, in which the version
                numbers stood for other weights.
        """
        candidates, abandoned = dict(self.members), dict[str, ServerAdmin]()
        paused_at = time.monotonic()
        try:
            self.order(lambda server: self._pause(server, up_to_date))
            yield
        except BaseException:  # no server has all weights: clean up, and let the caller handle it
            abandoned.update(self.members)
            self.members.clear()
            raise
        finally:
            self.order(lambda server: self._resume(server, version))
            self.pause_s = time.monotonic() - paused_at
            announce()
            failed = {name: candidates[name] for name in candidates if name in self.dropped}
            on_each(failed | abandoned, self._resume_without_sequences)

    def _pause(self, server: ServerAdmin, up_to_date: Container[tuple[str, str]]) -> None:
        is_known = (server.info.name, server.info.incarnation) in up_to_date
        server.pause(discard=not is_known, timeout_s=self.order_timeout_s)
        server.label(None, timeout_s=self.order_timeout_s)

    def _resume(self, server: ServerAdmin, version: int) -> None:
        server.label(version, timeout_s=self.order_timeout_s)
        server.resume(timeout_s=self.order_timeout_s)

    def _resume_without_sequences(self, server: ServerAdmin) -> None:
        """Resume a server that missed weights, without the sequences that it was sampling."""
        timeout_s = self.order_timeout_s / 4  # most of these servers are dead
        try:
            server.abort_all(timeout_s=timeout_s)
            server.end_update(timeout_s=timeout_s)
        except ServerRefusedError as error:
            logger.info("%s", error)  # no session was open
        finally:
            server.resume(timeout_s=timeout_s)


def on_each(
    servers: Mapping[str, ServerAdmin], call: Callable[[ServerAdmin], object]
) -> dict[str, WeightSyncError]:
    """Call on every server in parallel; return the errors by server name."""
    if not servers:
        return {}
    with ThreadPoolExecutor(len(servers), thread_name_prefix="weight-sync") as pool:
        futures = {name: pool.submit(call, server) for name, server in servers.items()}
    return errors_of(futures)


def answers_of_each(
    servers: Mapping[str, ServerAdmin], call: Callable[[ServerAdmin], T]
) -> tuple[dict[str, T], dict[str, WeightSyncError]]:
    """Call on every server in parallel; return the answers and the errors by server name."""
    if not servers:
        return {}, {}
    with ThreadPoolExecutor(len(servers), thread_name_prefix="weight-sync") as pool:
        futures = {name: pool.submit(call, server) for name, server in servers.items()}
    errors = errors_of(futures)
    return {name: future.result() for name, future in futures.items() if name not in errors}, errors


def errors_of(answers: Mapping[str, Future[Any]]) -> dict[str, WeightSyncError]:
    """Wait for calls and return their failures; raise any other exception, which is our bug."""
    errors = {}
    for name, answer in answers.items():
        error = answer.exception()
        if isinstance(error, WeightSyncError):
            errors[name] = error
        elif error is not None:
            raise error
    return errors


class Attempts:
    """Publication attempts per server, with growing pauses for servers that failed."""

    def __init__(
        self, *, retry_after_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin without any attempt.

        Args:
            retry_after_s: a server that failed is tried again after this time, twice as long after
                each further failure, up to 32 times as long. Not at once: every attempt makes the
                learner wait, and pauses the healthy ones.
            clock: seconds.
        """
        self._retry_after_s = retry_after_s
        self.up_to_date: frozenset[tuple[str, str]] = frozenset()
        self._failures: dict[tuple[str, str], _Failures] = {}
        self._clock = clock

    def record(self, *fleets: Fleet) -> None:
        """Record which servers acknowledged and which failed in a publication that has ended."""
        self.up_to_date = frozenset(
            item for fleet in fleets for item in fleet.incarnations().items()
        )
        for key in self.up_to_date & self._failures.keys():
            del self._failures[key]
        for fleet in fleets:
            self._record_failures(fleet)

    def _record_failures(self, fleet: Fleet) -> None:
        for name, server in fleet.failed_since_recorded().items():
            key = (name, server.info.incarnation)
            before = self._failures[key].number if key in self._failures else 0
            self._failures[key] = _Failures(number=before + 1, last_at=self._clock())

    def may_try(self, registered: Mapping[str, ServerInfo]) -> dict[str, ServerInfo]:
        """Return the servers whose pause after a failure is over, or that have not failed."""
        return {
            name: info
            for name, info in registered.items()
            if self._is_due((name, info.incarnation))
        }

    def is_pending(self, registered: Mapping[str, ServerInfo], state: PolicyState | None) -> bool:
        """Return whether a server has not acknowledged ``state`` and may be tried (again)."""
        acknowledged = set() if state is None else set(state.servers.items())
        due = {(name, info.incarnation) for name, info in self.may_try(registered).items()}
        return bool(due - acknowledged)

    def _is_due(self, key: tuple[str, str]) -> bool:
        if key not in self._failures:
            return True
        failures = self._failures[key]
        patience_s = self._retry_after_s * 2 ** min(failures.number - 1, _MAX_DOUBLINGS)
        return self._clock() - failures.last_at >= patience_s


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failures:
    """Failures of one incarnation of a server."""

    number: int
    last_at: float


def announce(run_dir: RunDir, attempts: Attempts, *fleets: Fleet, version: int) -> None:
    """Publish the members, which have all weights of ``version``, as the routable servers."""
    attempts.record(*fleets)
    publish_policy_state(run_dir, PolicyState(version=version, servers=dict(attempts.up_to_date)))
