"""Nonfinite gradients of a run: named in the log; too many in a row end it."""

import logging

from megatron_rl.errors import TrainingError

_LOG = logging.getLogger(__name__)


class NonfiniteSteps:
    """The batches in a row, up to now, of which a step was skipped."""

    def __init__(self, *, most: int) -> None:
        """Allow fewer than ``most`` batches in a row."""
        self._most = most
        self._batches: list[str] = []

    def note(self, batch: str, num_skipped: float) -> None:
        """Take in how many steps of ``batch`` were skipped; call it on every rank alike.

        Args:
            batch: what the user finds the batch by: its file.

        Raises:
            TrainingError: this is the last batch that was allowed.
        """
        if not num_skipped:
            self._batches.clear()
            return
        self._batches.append(batch)
        _LOG.warning("%s: gradient of NaN or inf, %d step(s) skipped", batch, num_skipped)
        if len(self._batches) >= self._most:
            raise TrainingError(
                f"gradients of NaN or inf in {self._most} batches in a row "
                f"(learner.max_skipped_steps): {', '.join(self._batches)}; look at what they hold "
                "with megatron-rl learn --replay, lower the learning rate, or go back to an older "
                "checkpoint"
            )
