"""Child processes that never outlive the process that started them."""

import ctypes
import os
import signal
from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None]:
    """Return a ``preexec_fn`` after which the kernel kills the child when its parent ends.

    However the parent ends: also by SIGKILL, which leaves it no chance to clean up.
    """
    parent = os.getpid()

    def prepare() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the request took effect
            os._exit(1)

    return prepare
