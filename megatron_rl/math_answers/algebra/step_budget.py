"""Budget of interpreter steps: long computations end at the same step on every machine."""

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
    """The computation made too many calls. No Exception, which SymPy and mpmath would catch."""


def within_steps(max_steps: int, compute: Callable[[], T]) -> T:
    """Return what ``compute`` returns unless it makes more than ``max_steps`` function calls.

    Counting makes the outcome depend on the input alone, a clock on the machine's load as well. A
    single call that never returns is not ended: the caller bounds its arguments.

    Raises:
        OutOfSteps: ``compute`` made more.
    """
    left = max_steps

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        left -= 1
        # Raising ends the counting: wait for a frame that lets the exception through.
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
