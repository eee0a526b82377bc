"""Batch files from rollout to learner in the run folder: back-pressure, resuming, pruning.

A batch file is never rewritten. Batches that a restarted learner has not yet seen again stay valid
and are replayed; a restarted rollout goes on after the newest file, whose cursor tells the groups
that are settled. So a group is trained on exactly once, no matter which process dies at which time.
"""

import asyncio
import contextlib
import os
import socket
import time
from dataclasses import dataclass

from megatron_rl.batch import Batch, load_batch, save_batch
from megatron_rl.errors import BatchFileError
from megatron_rl.registry import read_policy_state
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Cursor

_VISIBILITY_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Position at which a rollout goes on."""

    step: int
    """First batch that is not written yet."""
    cursor: Cursor
    """The curriculum after the batch before it."""


class FileBatchSink:
    """Writer of batches, for rollout: writes a batch once the learner is close enough behind."""

    def __init__(self, run_dir: RunDir, *, max_steps_ahead: int | None, poll_s: float) -> None:
        """Write to ``run_dir``.

        Args:
            run_dir: the run.
            max_steps_ahead: batches that may wait for the learner, the one being trained included;
                None never waits, for filling batches without a learner.
            poll_s: pause between reads of the published policy version.
        """
        self._run_dir = run_dir
        self._max_steps_ahead = max_steps_ahead
        self._poll_s = poll_s

    def position(self) -> Position:
        """Return where to go on; BatchFileError when batches are lost."""
        step = self.next_step()
        if step == 0:
            return Position(step=0, cursor=Cursor())
        return Position(step=step, cursor=load_batch(self._run_dir.batch(step - 1)).cursor)

    def next_step(self) -> int:
        """Return the first step without a batch file; BatchFileError when batches are lost."""
        state = read_policy_state(self._run_dir)
        version = 0 if state is None else state.version
        steps = written_steps(self._run_dir)
        step = steps[-1] + 1 if steps else 0
        if step < version:
            raise BatchFileError(
                f"{self._run_dir.batches}: the policy is at version {version}, so batch "
                f"{version - 1} must be there; restore it or start a new run_dir"
            )
        missing = sorted(set(range(version, step)) - set(steps))
        if missing:
            raise BatchFileError(
                f"{self._run_dir.batches}: batch {missing[0]} is missing but {step - 1} is there; "
                "restore it or start a new run_dir"
            )
        return step

    async def put(self, step: int, batch: Batch) -> None:
        """Wait until the learner is near enough, then write the batch of ``step``."""
        while not self._has_room(step):
            await asyncio.sleep(self._poll_s)
        await asyncio.to_thread(save_batch, self._run_dir.batch(step), batch)

    def _has_room(self, step: int) -> bool:
        if self._max_steps_ahead is None:
            return True
        state = read_policy_state(self._run_dir)
        return state is not None and step - state.version < self._max_steps_ahead


class FileBatchSource:
    """Reader of batches, for the learner. Every rank may read the same file."""

    def __init__(self, run_dir: RunDir) -> None:
        """Read from ``run_dir``."""
        self._run_dir = run_dir

    def is_there(self, step: int) -> bool:
        """Return whether the batch of ``step`` is written.

        Listing the folder makes a network file system refresh its cache, which holds for up to a
        minute that a file was missing.
        """
        name = self._run_dir.batch(step).name
        with contextlib.suppress(FileNotFoundError), os.scandir(self._run_dir.batches) as entries:
            return any(entry.name == name for entry in entries)
        return False

    def read(self, step: int, *, timeout_s: float) -> Batch:
        """Return the batch of ``step``, which other machines may see later than rank 0's.

        Raises:
            BatchFileError: the file is damaged, or not visible within ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_there(step):
            if time.monotonic() > deadline:
                raise BatchFileError(
                    f"{self._run_dir.batch(step)}: rank 0 sees it, and {socket.gethostname()} does "
                    f"not within {timeout_s:.0f} s; is run_dir on a file system that all nodes see?"
                )
            time.sleep(_VISIBILITY_POLL_S)
        return load_batch(self._run_dir.batch(step))


def outstanding_groups(run_dir: RunDir) -> int:
    """Return how many groups are begun and in no batch, as of the newest batch file."""
    steps = written_steps(run_dir)
    return len(load_batch(run_dir.batch(steps[-1])).cursor.outstanding) if steps else 0


def prune_batches(run_dir: RunDir, *, before_step: int) -> None:
    """Remove batches before ``before_step``, but never the newest: its cursor is the curriculum."""
    for step in written_steps(run_dir)[:-1]:
        if step < before_step:
            run_dir.batch(step).unlink(missing_ok=True)


def written_steps(run_dir: RunDir) -> list[int]:
    """Return the steps whose batch files are there, in order."""
    paths = run_dir.batches.glob("step_*.safetensors")
    return sorted(int(path.stem.removeprefix("step_")) for path in paths)
