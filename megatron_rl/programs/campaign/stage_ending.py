"""Ending of a stage as the learner decides it, all ranks alike, from what it has recorded."""

import time

from megatron_rl.batch_files import outstanding_groups
from megatron_rl.config import EndsWhenConfig, RunConfig, held_out_sets
from megatron_rl.learner.rank_consensus import RankConsensus
from megatron_rl.report.follow import GrowingRecords
from megatron_rl.report.scores import of_set
from megatron_rl.run_dir import RunDir
from megatron_rl.stage_endings import ending
from megatron_rl.stage_record import StageEnd, record_stage_end

_GOES_ON = "goes on"


class StageEnding:
    """Rules of one stage over the files of the run, and the record of its end."""

    def __init__(self, config: RunConfig, consensus: RankConsensus) -> None:
        """Look at nothing yet; a run without stages never ends by a rule."""
        self._stage = config.stage
        self._run_dir = RunDir(config.run_dir)
        sets = held_out_sets(config)
        self._headline = sets[0].name if sets else None
        self._consensus = consensus
        self._metrics = GrowingRecords(self._run_dir.metrics)
        self._evaluations = GrowingRecords(self._run_dir.evaluations)
        self.reason = ""
        """Why a rule has ended the stage; empty while none has."""

    def is_over(self) -> bool:
        """Return whether a rule ends the stage after what is recorded; a collective."""
        if self._stage is None or self._stage.ends_when == EndsWhenConfig():
            return False
        seen = self._consensus.decide(self._look, wants_stop=False)
        assert seen is not None
        self.reason = "" if seen == _GOES_ON else seen
        return seen != _GOES_ON

    def _look(self) -> str:
        assert self._stage is not None
        self._metrics.refresh()
        self._evaluations.refresh()
        reason = ending(
            self._stage.ends_when,
            self._metrics.records,
            of_set(self._evaluations.records, self._headline),
            first_step=self._stage.first_step,
        )
        return reason or _GOES_ON

    def record(self, step: int) -> None:
        """Write that the stage is over at ``step``, whose checkpoint is there; on rank 0."""
        if self._stage is None:
            return
        record_stage_end(
            self._run_dir,
            StageEnd(
                number=self._stage.number,
                name=self._stage.name,
                first_step=self._stage.first_step,
                end=step,
                reason=self.reason or f"num_steps ({step - self._stage.first_step})",
                planned_steps=self._stage.planned_steps,
                restarted_groups=outstanding_groups(self._run_dir),
                time=time.time(),
            ),
        )
