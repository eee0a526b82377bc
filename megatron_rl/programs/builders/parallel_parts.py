"""Parallel parts of a long check, in processes of their own, behind a progress bar."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

from megatron_rl.report.progress_bar import progress_bar

T = TypeVar("T")
R = TypeVar("R")

_MOST_PROCESSES = 16


def map_parts(
    function: Callable[[T], R], parts: Sequence[T], sizes: Sequence[int], *, what: str, alone: int
) -> Iterator[R]:
    """Yield ``function(part)`` in order.

    Args:
        function: of a module, since processes have to find it.
        parts: its arguments, picklable.
        sizes: rows of each part, for the bar.
        what: name of the bar.
        alone: most rows that are not worth a process.

    Raises:
        Whatever ``function`` raises, of the first part that does.
    """
    num_processes = min(len(os.sched_getaffinity(0)), len(parts), _MOST_PROCESSES)
    if sum(sizes) <= alone or num_processes == 1:
        yield from map(function, parts)
        return
    pool = ProcessPoolExecutor(
        num_processes, mp_context=get_context("spawn"), initializer=_leave_signals
    )
    with progress_bar(what, sum(sizes)) as progress:
        try:
            for size, result in zip(sizes, pool.map(function, parts), strict=True):
                yield result
                progress.advance(progress.task_ids[0], size)
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_signals() -> None:
    """Leave Ctrl-C to the parent, which ends the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
