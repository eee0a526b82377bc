"""A budget of interpreter steps: long computations end, at the same step on every machine."""

import ctypes
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


class OutOfSteps(BaseException):
    """The computation made too many calls. Not an Exception, lest the callee swallow it."""


def within_steps(most_steps: int, compute: Callable[[], T]) -> T:
    """Return what ``compute`` returns unless it makes more than ``most_steps`` function calls.

    Counting makes the outcome a property of the input, where a clock would make it one of the
    machine's load. Single calls that never return are beyond it: their arguments must be bounded.

    Raises:
        OutOfSteps: it made more.
    """
    left = most_steps
    thread = ctypes.c_ulong(threading.get_ident())
    interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            # Raising here would end the counting, and who catches everything (a bare except, the
            # end of a generator) could then go on for ever. This is repeated until it is heeded.
            interrupt(thread, ctypes.py_object(OutOfSteps))

    before = sys.getprofile()
    try:
        sys.setprofile(count)
        try:
            return compute()
        finally:
            sys.setprofile(before)
    finally:
        interrupt(thread, None)
