"""Ranks of one stage: its work on several GPUs, or several processes of the CPU."""

import time
from dataclasses import replace

from megatron_rl.programs.builders.hardware import LocalGpus
from megatron_rl.programs.processes.children import Supervisor
from megatron_rl.programs.processes.ports import rendezvous_port
from megatron_rl.programs.processes.ranks import rank_environment
from megatron_rl.programs.stage_runs.process import arguments_of, hidden_gpus, outcome_in
from megatron_rl.programs.stage_runs.result import Outcome
from megatron_rl.programs.stage_runs.stage import Place, write_place

_GRACE_S = 2.0
_POLL_S = 0.05
_CPU_RANKS = 2
"""Of a rehearsal."""


def num_ranks(place: Place) -> int:
    """Return how many ranks there can be: one for each GPU."""
    return _CPU_RANKS if place.is_rehearsal else len(place.gpus)


def on_ranks(place: Place, work: str, name: str, *, count: int) -> Outcome:
    """Do the work, ``module:function``, on ``count`` ranks at once; return what the first found.

    Args:
        name: of the folder in which they work.

    Raises:
        ProgramError: a rank failed; carries the last lines of its log.
    """
    folder, port = place.folder / name, rendezvous_port()
    folder.mkdir(exist_ok=True)
    write_place(replace(place, folder=folder))
    gpus = LocalGpus(list(place.gpus), num_learners=count, num_servers=0, server_tp=1)
    with Supervisor(grace_s=_GRACE_S) as supervisor:
        ranks = [
            supervisor.start(
                "gpu-check",
                f"rank {rank} of {name}",
                arguments_of(work, folder),
                log=folder / f"rank_{rank}.log",
                environment=rank_environment(rank, count, port)
                | gpus.of_learner(rank)
                | hidden_gpus(place),
            )
            for rank in range(count)
        ]
        while any(rank.poll() is None for rank in ranks):
            failed = [rank for rank in ranks if rank.poll() not in (None, 0)]
            if failed:
                raise failed[0].failure()
            time.sleep(_POLL_S)
        failed = [rank for rank in ranks if rank.poll() != 0]
        if failed:
            raise failed[0].failure()
    outcome = outcome_in(folder)
    assert outcome is not None, "the first rank leaves an outcome"
    return outcome
