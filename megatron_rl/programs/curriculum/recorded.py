"""Curriculum of a run with what it remembers in the run folder, so that a restart goes on exactly.

A curriculum by index remembers nothing: the cursor in the newest batch file is all of it.
"""

from collections.abc import Sequence

from megatron_rl.config import RunConfig
from megatron_rl.data.curriculum.lifecycle import BorderRecord, LifecycleCurriculum
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.programs.curriculum.outcome_log import OutcomeLog
from megatron_rl.programs.curriculum.sources import open_curriculum
from megatron_rl.protocols import GroupCurriculum
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Cursor


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
            return self._curriculum.take_records(), self._curriculum.metrics()
        return [], {}

    def write(self, step: int, records: Sequence[BorderRecord]) -> None:
        """Record the outcomes up to the batch of ``step``, before its file is written."""
        if records:
            self._log.append(step, records)
