"""A device on the host that does everything as late as CUDA may: the memory it writes is stale
until somebody waits in a way that CUDA knows.

Work has an order within the thread that asked for it (its stream), and none between threads. What
is not waited for is not done, however much time passes.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_rl.learner.device.platform import CpuPlatform


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A place in the order of one thread."""

    stream: int
    length: int


class LateDevice(CpuPlatform):
    """The CPU's platform with a late device; ``events`` tells what was done, and by which thread.

    A thread may use the device once it has followed a mark, as CUDA wants of every thread that it
    selects its GPU; the thread that makes the object has done so.
    """

    def __init__(self) -> None:
        super().__init__(num_threads=torch.get_num_threads())
        object.__setattr__(self, "events", [])
        object.__setattr__(self, "_asked", {})
        object.__setattr__(self, "_done", {})
        object.__setattr__(self, "_lock", threading.RLock())
        object.__setattr__(self, "_selected", {threading.get_ident()})

    def ask(self, work: Callable[[], object]) -> None:
        """Let the device do something once it must."""
        with self._lock:
            self._asked.setdefault(threading.get_ident(), []).append(work)

    def ask_for(self, value: Tensor) -> Tensor:
        """Return memory of the device that will hold this value; until then it holds NaN."""
        memory = torch.full_like(value, torch.nan)
        self.ask(lambda: memory.copy_(value))
        return memory

    @property
    def is_selected(self) -> bool:
        """Whether the calling thread has selected the device."""
        return threading.get_ident() in self._selected

    def start_copy(self, tensor: Tensor, buffer: Tensor) -> None:
        """Copy later what the tensor holds in the order of this thread."""
        buffer.view(torch.uint8).fill_(0xFF)  # NaN in every floating type
        self.ask(lambda: buffer.copy_(tensor))
        self._note("start_copy")

    def synchronize(self) -> None:
        """Do everything that any thread asked for."""
        self._note("synchronize")
        for stream in list(self._asked):
            self._run(stream, len(self._asked[stream]))

    def mark(self) -> Mark:
        """Name the place in this thread's order."""
        self._note("mark")
        stream = threading.get_ident()
        return Mark(stream=stream, length=len(self._asked.get(stream, [])))

    def follow(self, mark: Mark) -> None:
        """Do what comes before the mark, and nothing else."""
        self._note("follow")
        self._selected.add(threading.get_ident())
        self._run(mark.stream, mark.length)

    def _run(self, stream: int, length: int) -> None:
        with self._lock:
            for place in range(self._done.get(stream, 0), length):
                self._asked[stream][place]()
            self._done[stream] = max(length, self._done.get(stream, 0))

    def _note(self, what: str) -> None:
        self.events.append((what, threading.current_thread().name))
