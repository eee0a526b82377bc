"""Log-probs of sampled tokens, computed by the run's own learner on all of its ranks."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.batch import Batch, save_batch
from megatron_rl.config import RunConfig
from megatron_rl.programs.builders.hardware import LocalGpus, visible_gpus
from megatron_rl.programs.processes.children import Supervisor
from megatron_rl.programs.processes.ports import rendezvous_port
from megatron_rl.programs.processes.ranks import rank_environment
from megatron_rl.programs.processes.run_folder import write_config
from megatron_rl.rollout.assemble import assemble_batch
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Cursor, Group

SCORES = "scores.json"
"""File, beside the batch, that the ranks leave."""
_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}
_GRACE_S, _POLL_S = 8.0, 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class LogprobComparison:
    """|server's - learner's| log-probability of every sampled token."""

    num_tokens: int
    mean: float
    largest: float
    tolerance: float
    """Of the mean: rounding to 16 bits in other places moves it by a few hundredths, another
    weight, position or template by 1 and more."""

    @property
    def agrees(self) -> bool:
        """Whether learner and server are the same policy."""
        return self.mean <= self.tolerance

    def __str__(self) -> str:
        """Return the line for people."""
        verdict = "agree" if self.agrees else f"DIFFER by more than {self.tolerance} on average"
        return (
            f"log-probs of learner and server {verdict}: mean {self.mean:.1e}, largest "
            f"{self.largest:.1e}, of {self.num_tokens:,} tokens"
        )


def compare_with_learner(
    config: RunConfig, groups: Sequence[Group], *, run_dir: Path
) -> LogprobComparison:
    """Start the ranks of the learner on this machine and let them score the groups.

    Args:
        config: of the run; ``model.path`` is the folder that was served.
        groups: whole ones, with the log-probs that the server reported.
        run_dir: empty folder for the ranks' files.

    Raises:
        ConfigError: this machine has no GPUs for the ranks.
        ProgramError: a rank failed; carries its last log lines.
    """
    config = config.model_copy(update={"run_dir": run_dir, "num_steps": 1, "sft": None})
    gpus = LocalGpus(
        visible_gpus(os.environ),
        num_learners=config.learner.num_processes,
        num_servers=1,
        server_tp=1,
    )
    folder = RunDir(run_dir)
    folder.logs.mkdir(parents=True)
    folder.batches.mkdir()
    write_config(config)
    save_batch(folder.batch(0), _batch_of(groups))
    _run_ranks(config, gpus)
    scores = json.loads((run_dir / SCORES).read_text())
    return LogprobComparison(**scores, tolerance=_TOLERANCE[config.model.dtype])


def _batch_of(groups: Sequence[Group]) -> Batch:
    return assemble_batch(
        groups,
        n_minibatch=sum(len(group.samples) for group in groups),
        scale="none",
        aggregation="token",
        max_tokens=max(len(s.completion.token_ids) for g in groups for s in g.samples),
        cursor=Cursor(),
        metrics={},
    )


def _run_ranks(config: RunConfig, gpus: LocalGpus) -> None:
    folder, size, port = RunDir(config.run_dir), config.learner.num_processes, rendezvous_port()
    with Supervisor(grace_s=_GRACE_S) as supervisor:
        ranks = [
            supervisor.start(
                "score-batch",
                f"score_{rank}",
                ["score-batch", str(folder.config)],
                log=folder.logs / f"score_{rank}.log",
                environment=rank_environment(rank, size, port) | gpus.of_learner(rank),
            )
            for rank in range(size)
        ]
        while (codes := [rank.poll() for rank in ranks]) != [0] * size:
            failed = [r for r, code in zip(ranks, codes, strict=True) if code not in (None, 0)]
            if failed:
                raise failed[0].failure()
            time.sleep(_POLL_S)
