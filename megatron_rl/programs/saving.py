"""When the learner's state is saved, and what may go once a newer checkpoint is complete."""

import logging
import time
from typing import Any

from megatron_rl.config import CheckpointConfig
from megatron_rl.handoff import prune_batches
from megatron_rl.learner.checkpoint_steps import (
    complete_steps,
    cut_off_checkpoints,
    remove_old_checkpoints,
)
from megatron_rl.learner.learner import Learner
from megatron_rl.run_dir import RunDir

_LOG = logging.getLogger(__name__)


class Saving:
    """Checkpoints of one run. Every method but ``metrics`` is a collective of all ranks."""

    def __init__(
        self,
        settings: CheckpointConfig,
        run_dir: RunDir,
        learner: Learner,
        *,
        is_first: bool,
        is_replay: bool,
    ) -> None:
        """Look at nothing yet.

        Args:
            is_first: whether this rank removes files.
            is_replay: whether the batches are a recording, which stays.
        """
        self._settings, self._run_dir, self._learner = settings, run_dir, learner
        self._is_first, self._is_replay = is_first, is_replay
        self._started_step: int | None = None
        self._waited_s = 0.0
        self._total_s: float | None = None

    def restore(self) -> tuple[int, Any]:
        """Return the step and cursor to go on from: (0, None) without a checkpoint.

        Raises:
            CheckpointError: the latest one is damaged, or of another model.
        """
        folder = self._run_dir.checkpoints
        for cut_off in cut_off_checkpoints(folder) if self._is_first else ():
            _LOG.warning("%s was cut off while it was written; it is not used", cut_off)
        restored = self._learner.restore(folder)
        if restored is None:
            return 0, None
        self._started_step = restored[0]
        return restored

    def save_if_due(self, step: int, cursor: Any) -> None:
        """Save every so many steps; a checkpoint that is still being written is waited for.

        Raises:
            CheckpointError: this one or the one before cannot be written.
        """
        if step % self._settings.every == 0:
            self._save(step, cursor, in_background=self._settings.async_save)

    def save_and_wait(self, step: int, cursor: Any) -> None:
        """Return when the state of ``step`` is saved and named, and nothing is being written."""
        self._save(step, cursor, in_background=False)
        self.look(wait=True)

    def look(self, *, wait: bool) -> None:
        """Name the checkpoint that was being written if it is complete, and clear up after it.

        Raises:
            CheckpointError: it cannot be written.
        """
        started = time.monotonic()
        saved = self._learner.finish_saving(wait=wait)
        if saved is not None:
            _LOG.info("checkpoint of step %d complete in %.1f s", saved.step, saved.total_s)
            self._total_s = saved.total_s
            if self._is_first:
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
        self.look(wait=True)
        started = time.monotonic()
        self._started_step = step
        if in_background:
            self._learner.start_saving(self._run_dir.checkpoints, step, extra=cursor)
        else:
            self._learner.save(self._run_dir.checkpoints, step, extra=cursor)
            self._total_s = time.monotonic() - started
            if self._is_first:
                self._clear_up()
        self._waited_s += time.monotonic() - started

    def _clear_up(self) -> None:
        kept, folder = self._settings, self._run_dir.checkpoints
        remove_old_checkpoints(folder, keep=kept.keep, keep_every=kept.keep_every)
        if kept.keep_batches is not None and not self._is_replay:
            oldest = complete_steps(folder)[0]
            prune_batches(self._run_dir, before_step=oldest - kept.keep_batches)
