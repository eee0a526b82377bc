"""Run an asyncio program so that SIGTERM, SIGUSR1 and Ctrl-C end it cleanly and at once."""

import asyncio
import logging
import signal
from collections.abc import Coroutine
from typing import Any

_LOG = logging.getLogger(__name__)
# The last is how steps of a Slurm job are asked.
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def run_until_signal(program: Coroutine[Any, Any, None]) -> int:
    """Run ``program`` and return its exit code: 0, or 128 plus the signal that cancelled it.

    The program is cancelled, so its context managers give back what it holds. A second signal
    does nothing more.
    """
    return asyncio.run(_run(program))


async def _run(program: Coroutine[Any, Any, None]) -> int:
    task = asyncio.ensure_future(program)
    received: list[int] = []

    def stop(number: int) -> None:
        if not received:
            _LOG.info("%s: stopping", signal.Signals(number).name)
            task.cancel()
        received.append(number)

    loop = asyncio.get_running_loop()
    for number in _STOPPING:
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0]
    finally:
        for number in _STOPPING:
            loop.remove_signal_handler(number)
        if received:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # it is repeated; see Step.ask_to_stop
    return 0
