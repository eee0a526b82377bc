"""Signals of a batch script: time is nearly up (USR1), or cancelled (TERM)."""

import signal
import time
from collections.abc import Sequence
from types import FrameType
from typing import Self

from megatron_rl.errors import Interrupted
from megatron_rl.slurm.step import Step

_REMIND_S = 2.0


class JobSignals:
    """Hands the first kind on to the learner, and remembers the second."""

    def __init__(self) -> None:
        self._steps: Sequence[Step] = ()
        self._is_time_up = False
        self._announced = 0.0
        self._cancelled_by: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def forward_to(self, steps: Sequence[Step]) -> None:
        """Let these steps know when time is up."""
        self._steps = steps

    def remind(self) -> None:
        """Tell again every few seconds that time is up; a program that starts does not hear it."""
        if self._is_time_up and time.monotonic() - self._announced > _REMIND_S:
            self._announce()

    def note_time_is_up(self) -> None:
        """Have the learner save, as if Slurm had said so to this process."""
        self._is_time_up = True

    def raise_if_cancelled(self) -> None:
        """Raise Interrupted once the job is to end."""
        if self._cancelled_by is not None:
            raise Interrupted(
                f"cancelled by {self._cancelled_by}; submit the same configuration to resume"
            )

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._is_time_up = True
            self._announce()
        else:
            self._cancelled_by = signal.Signals(number).name

    def _announce(self) -> None:
        self._announced = time.monotonic()
        for step in self._steps:
            step.ask_to_stop()
