"""Curriculum of a run with what it remembers in the run folder, so that a restart goes on exactly.

A curriculum by index remembers nothing: the cursor in the newest batch file is all of it.
"""

import logging
from collections.abc import Sequence

from megatron_rl.config import RunConfig
from megatron_rl.data.curriculum.lifecycle import BorderRecord, LifecycleCurriculum
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.programs.curriculum.outcome_log import OutcomeLog
from megatron_rl.programs.curriculum.shares import mean_group_size
from megatron_rl.programs.curriculum.sources import open_curriculum
from megatron_rl.protocols import GroupCurriculum
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Cursor

_LOG = logging.getLogger(__name__)


class RecordedCurriculum:
    """Curriculum of the configuration and the recorded outcomes, after the last batch."""

    def __init__(
        self,
        config: RunConfig,
        sources: Sequence[CurriculumSource],
        *,
        step: int,
        cursor: Cursor,
    ) -> None:
        """Go on with batch ``step`` at ``cursor``; reads the outcomes of all batches before it.

        Raises:
            BatchFileError: the outcomes are of other batches.
        """
        self._log = OutcomeLog(RunDir(config.run_dir).outcomes)
        self._curriculum = open_curriculum(config, sources)
        self._groups_per_batch = config.rollout.n_batch / mean_group_size(config)
        self._is_scarce = False
        if isinstance(self._curriculum, LifecycleCurriculum):
            self._curriculum.restore(self._log.open(step, cursor))

    @property
    def of_groups(self) -> GroupCurriculum:
        """What groups are given."""
        return self._curriculum

    def take_batch(self) -> tuple[list[BorderRecord], dict[str, float]]:
        """Return what to record of a batch that has just been taken, and its metrics.

        Call it before any further group can be settled.
        """
        if isinstance(self._curriculum, LifecycleCurriculum):
            metrics = self._curriculum.metrics()
            self._warn_of_few(metrics["curriculum/active"])
            return self._curriculum.take_records(), metrics
        return [], {}

    def write(self, step: int, records: Sequence[BorderRecord]) -> None:
        """Record the outcomes up to the batch of ``step``, before its file is written."""
        if records:
            self._log.append(step, records)

    def _warn_of_few(self, num_active: float) -> None:
        """Say when batches begin to repeat problems, each time that it begins."""
        was_scarce, self._is_scarce = self._is_scarce, num_active < self._groups_per_batch
        if self._is_scarce and not was_scarce:
            _LOG.warning(
                "%d problems are active, fewer than the groups of a batch (about %.0f), so that "
                "batches repeat them; add problems (data.train, data.reserve), or see "
                "[data.lifecycle]",
                *(num_active, float(self._groups_per_batch)),
            )
