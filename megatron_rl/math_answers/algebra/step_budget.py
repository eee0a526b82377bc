"""A budget of interpreter steps: long computations end, at the same step on every machine."""

import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
# mpmath has a bare except in places; weak references and __del__ cannot raise.
_SWALLOWING_MODULES = ("mpmath", "weakref")


class OutOfSteps(BaseException):
    """The computation made too many calls. Not an Exception, lest the callee swallow it."""


def within_steps(max_steps: int, compute: Callable[[], T]) -> T:
    """Return what ``compute`` returns unless it makes more than ``max_steps`` function calls.

    Counting makes the outcome a property of the input, where a clock would make it one of the
    machine's load. Single calls that never return are beyond it: their arguments must be bounded.

    Raises:
        OutOfSteps: it made more.
    """
    left = max_steps

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        left -= 1
        # Raising ends the counting, so that it waits for a place where the exception is heeded.
        if left < 0 and event == "call" and _can_raise_in(frame):
            raise OutOfSteps

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return compute()
    finally:
        sys.setprofile(before)


def _can_raise_in(frame: FrameType) -> bool:
    """Return whether an exception raised here travels up; that of a dying generator does not."""
    caller = frame.f_back
    for each in (frame, caller):
        if each is None:
            continue
        module = each.f_globals["__name__"].partition(".")[0]
        if each.f_code.co_flags & _GENERATOR or module in _SWALLOWING_MODULES:
            return False
    return frame.f_code.co_name != "__del__"
