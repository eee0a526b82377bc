"""Checkpointing schedule of a training loop, and removal of old checkpoints."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_rl.learner.checkpoint.steps import (
    complete_steps,
    cut_off_checkpoints,
    remove_old_checkpoints,
)
from megatron_rl.learner.learner import Learner

_LOG = logging.getLogger(__name__)


class Checkpointing:
    """Checkpoints of one folder. Every method but ``metrics`` is a collective of all ranks."""

    def __init__(
        self,
        folder: Path,
        learner: Learner,
        *,
        every: int,
        in_background: bool,
        keep: int,
        keep_every: int,
        clears_up: bool,
        forget_before: Callable[[int], None] | None = None,
    ) -> None:
        """Look at nothing yet.

        Args:
            every: steps between checkpoints; 0 saves only when told.
            in_background: whether training goes on while a checkpoint is written.
            keep: newest checkpoints kept.
            keep_every: multiples of this are kept for good; 0 keeps none more.
            clears_up: whether this rank removes files.
            forget_before: told the oldest step that is kept, whenever something was removed.
        """
        self._folder, self._learner = folder, learner
        self._every, self._in_background = every, in_background
        self._keep, self._keep_every = keep, keep_every
        self._clears_up, self._forget_before = clears_up, forget_before
        self._started_step: int | None = None
        self._waited_s = 0.0
        self._total_s: float | None = None

    def restore(self) -> tuple[int, Any]:
        """Return the step and cursor to go on from: (0, None) without a checkpoint.

        Raises:
            CheckpointError: the latest one is damaged, or of another model.
        """
        for cut_off in cut_off_checkpoints(self._folder) if self._clears_up else ():
            _LOG.warning("%s was cut off while it was written; it is not used", cut_off)
        restored = self._learner.restore(self._folder)
        if restored is None:
            return 0, None
        self._started_step = restored[0]
        return restored

    def save_if_due(self, step: int, cursor: Any) -> None:
        """Save every so many steps; a checkpoint that is still being written is waited for.

        Raises:
            CheckpointError: this one or the one before cannot be written.
        """
        if self._every and step % self._every == 0:
            self._save(step, cursor, in_background=self._in_background)

    def save_and_wait(self, step: int, cursor: Any) -> None:
        """Return when the state of ``step`` is saved and named, and nothing is being written."""
        self._save(step, cursor, in_background=False)
        self.poll(wait=True)

    def poll(self, *, wait: bool) -> None:
        """Name the checkpoint that was being written if it is complete, and clear up after it.

        Raises:
            CheckpointError: it cannot be written.
        """
        started = time.monotonic()
        saved = self._learner.finish_saving(wait=wait)
        if saved is not None:
            _LOG.info("checkpoint of step %d complete in %.1f s", saved.step, saved.total_s)
            self._total_s = saved.total_s
            if self._clears_up:
                self._clear_up()
        self._waited_s += time.monotonic() - started

    def metrics(self) -> dict[str, float]:
        """Return what checkpoints cost since the last call, in seconds.

        ``time/checkpoint_s``: training waited. ``time/checkpoint_total_s``, when one was completed:
        from its beginning to its name.
        """
        metrics = {"time/checkpoint_s": self._waited_s}
        if self._total_s is not None:
            metrics["time/checkpoint_total_s"] = self._total_s
        self._waited_s, self._total_s = 0.0, None
        return metrics

    def _save(self, step: int, cursor: Any, *, in_background: bool) -> None:
        # Before the first step the optimiser has no state, and there is nothing to lose.
        if step in (0, self._started_step):
            return
        self.poll(wait=True)
        started = time.monotonic()
        self._started_step = step
        if in_background:
            self._learner.start_saving(self._folder, step, extra=cursor)
        else:
            self._learner.save(self._folder, step, extra=cursor)
            self._total_s = time.monotonic() - started
            if self._clears_up:
                self._clear_up()
        self._waited_s += time.monotonic() - started

    def _clear_up(self) -> None:
        remove_old_checkpoints(self._folder, keep=self._keep, keep_every=self._keep_every)
        if self._forget_before is not None:
            self._forget_before(complete_steps(self._folder)[0])
