"""A budget of interpreter steps: long computations end, at the same step on every machine."""

import sys
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

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OutOfSteps

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return compute()
    finally:
        sys.setprofile(before)
