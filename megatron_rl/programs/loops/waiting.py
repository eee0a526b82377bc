"""Waits for what other programs do: polled, since programs share the run folder alone."""

import asyncio
import logging
from collections.abc import Callable

from megatron_rl.programs.builders.inference import POLL_S, InferenceClients

_LOG = logging.getLogger(__name__)


async def wait_until(is_true: Callable[[], bool], what: str) -> None:
    """Poll until another program makes it true; the launcher watches whether that program lives."""
    if not is_true():
        _LOG.info("waiting for %s", what)
    while not is_true():
        await asyncio.sleep(POLL_S)


def has_version(clients: InferenceClients, version: int) -> bool:
    """Return whether a policy version, or a newer one, is published."""
    current = clients.router.current_version()
    return current is not None and current >= version
