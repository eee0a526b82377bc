"""Next event of a training loop, the same on every rank: a batch, a server, an evaluation, a stop.

Rank 0 alone looks at files and servers; the others act on what it saw.
"""

import functools
from collections.abc import Collection
from typing import Literal

from megatron_rl.batch_files import FileBatchSource
from megatron_rl.errors import BatchFileError
from megatron_rl.learner.rank_consensus import RankConsensus
from megatron_rl.programs.loops.evaluation_schedule import is_last_recorded
from megatron_rl.protocols import PolicyPublisher
from megatron_rl.run_dir import RunDir

Awaited = Literal["batch", "evaluation"]
Event = Literal["batch", "evaluation", "admit", "stop"]
"""The awaited file is there; a server waits for the weights; a rank was asked to stop."""


class NextEvent:
    """Waits of the learner, of all ranks together."""

    def __init__(
        self,
        run_dir: RunDir,
        consensus: RankConsensus,
        publisher: PolicyPublisher | None,
        *,
        is_replay: bool,
        held_out: Collection[str | None],
    ) -> None:
        """Look into a run folder.

        Args:
            publisher: asked on rank 0 whether a server waits for weights; None in a replay.
            is_replay: batches are recorded, so that one that is not there never comes.
            held_out: names of the sets that are evaluated, None for the one without a name.
        """
        self._held_out = held_out
        self._run_dir = run_dir
        self._source = FileBatchSource(run_dir)
        self._consensus = consensus
        self._publisher = publisher
        self._is_replay = is_replay

    def ask(self, awaited: Awaited, step: int, *, wants_stop: bool) -> Event | None:
        """Return what is there, None after a second without anything; a collective.

        Args:
            awaited: the batch of ``step``, or the evaluations of version ``step``, the last one.
            step: of the run.
            wants_stop: this rank was asked to stop.

        Raises:
            BatchFileError: a replay lacks the batch.
        """
        look = functools.partial(self._look, awaited, step)
        return self._consensus.decide(look, wants_stop=wants_stop)

    def _look(self, awaited: Awaited, step: int) -> Event | None:
        if awaited == "evaluation":
            is_there = is_last_recorded(self._run_dir, num_steps=step, sets=self._held_out)
        else:
            is_there = self._source.is_there(step)
            if self._is_replay and not is_there:
                raise BatchFileError(
                    f"{self._run_dir.batch(step)}: not recorded; set num_steps = {step} to replay "
                    "what is there"
                )
        if is_there:
            return awaited
        if self._publisher is not None and self._publisher.pending():
            return "admit"
        return None
