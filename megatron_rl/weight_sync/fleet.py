"""Many servers at once: one order to all in parallel, and a pause that always ends."""

import contextlib
import logging
import time
from collections.abc import Callable, Container, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from megatron_rl.errors import WeightSyncError
from megatron_rl.registry import PolicyState, ServerInfo
from megatron_rl.weight_sync.admin import ServerAdmin, ServerRefusedError

logger = logging.getLogger(__name__)

ORDER_TIMEOUT_S = 10.0
"""Longest time for orders that a living server answers in milliseconds."""
RETRY_AFTER_S = 30.0
"""A server that failed counts as pending again after this time, not at once: every attempt pauses
the healthy ones."""


class Fleet:
    """The servers of one publication. Whoever fails is logged by name and takes no further part."""

    def __init__(self, servers: Mapping[str, ServerInfo], *, timeout_s: float) -> None:
        self.order_timeout_s = min(ORDER_TIMEOUT_S, timeout_s)
        self.members: dict[str, ServerAdmin] = {
            name: ServerAdmin(info) for name, info in servers.items()
        }
        self.dropped: dict[str, ServerAdmin] = {}
        self.pause_s = 0.0

    def incarnations(self) -> dict[str, str]:
        """Return the incarnation of every member by name."""
        return {name: server.info.incarnation for name, server in self.members.items()}

    def order(self, call: Callable[[ServerAdmin], object]) -> None:
        """Call on every member in parallel; drop the members for which it raises."""
        self.drop(on_each(self.members, call))

    def drop(self, errors: Mapping[str, WeightSyncError]) -> None:
        """Leave the named members out from now on."""
        for name, error in errors.items():
            logger.error("publication goes on without server %s: %s", name, error)
            self.dropped[name] = self.members.pop(name)

    @contextlib.contextmanager
    def paused(self, *, in_step: Container[tuple[str, str]]) -> Iterator[None]:
        """Pause all members, and let all go on afterwards, whatever happens in between.

        Args:
            in_step: (name, incarnation) of servers that took part in the last publication. The
                running sequences and cached prefixes of any other are discarded: they may stem from
                a mixture of policies, or from another life of the learner, in which the version
                numbers stood for other weights.
        """
        candidates = dict(self.members)
        paused_at = time.monotonic()
        try:
            self.order(
                lambda server: server.pause(
                    discard=(server.info.name, server.info.incarnation) not in in_step,
                    timeout_s=self.order_timeout_s,
                )
            )
            yield
        except BaseException:  # nobody has all weights: not ours to handle, but to clean up after
            self.dropped.update(self.members)
            self.members.clear()
            raise
        finally:
            self.order(lambda server: server.resume(timeout_s=self.order_timeout_s))
            self.pause_s = time.monotonic() - paused_at
            spoiled = {name: candidates[name] for name in candidates if name in self.dropped}
            on_each(spoiled, self._release_spoiled)

    def _release_spoiled(self, server: ServerAdmin) -> None:
        """Let a dropped server go on without the sequences it was sampling.

        It may hold a mixture of two policies, and no token of that may reach a batch.
        """
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


def errors_of(answers: Mapping[str, Future[object]]) -> dict[str, WeightSyncError]:
    """Return the failures of calls, waiting for them; anything else that was raised is our bug."""
    errors = {}
    for name, answer in answers.items():
        error = answer.exception()
        if isinstance(error, WeightSyncError):
            errors[name] = error
        elif error is not None:
            raise error
    return errors


class Attempts:
    """Which servers owe an acknowledgement, with patience for those that failed."""

    def __init__(self) -> None:
        self.in_step: frozenset[tuple[str, str]] = frozenset()
        self._failed_at: dict[tuple[str, str], float] = {}

    def record(self, fleet: Fleet) -> None:
        """Remember who acknowledged and who failed in a publication that has just ended."""
        now = time.monotonic()
        self.in_step = frozenset(fleet.incarnations().items())
        self._failed_at = {
            (name, server.info.incarnation): now for name, server in fleet.dropped.items()
        }

    def is_pending(self, registered: Mapping[str, ServerInfo], state: PolicyState | None) -> bool:
        """Return whether a server has not acknowledged ``state`` and may be tried (again)."""
        acknowledged = set() if state is None else set(state.servers.items())
        owing = {(name, info.incarnation) for name, info in registered.items()} - acknowledged
        now = time.monotonic()
        return any(
            key not in self._failed_at or now - self._failed_at[key] >= RETRY_AFTER_S
            for key in owing
        )
