"""Layouts of several ranks against one rank: tensor, context, pipeline and data parallel."""

from dataclasses import replace

from megatron_rl.parallelism.layouts import Layout
from megatron_rl.programs.gpu_stages.ranks import num_ranks, on_ranks
from megatron_rl.programs.processes.ports import rendezvous_port
from megatron_rl.programs.stage_runs.result import Outcome
from megatron_rl.programs.stage_runs.stage import Place
from megatron_rl.run_dir import write_json

_RANK_WORK = "megatron_rl.programs.gpu_stages.learning.layout_ranks:be_rank"
ALONE = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
LAYOUTS = {
    "data parallel": ALONE,
    "tp 2, sequence parallel": replace(ALONE, tp=2, sp=True, etp=2),
    "cp 2": replace(ALONE, cp=2),
    "pp 2": replace(ALONE, pp=2),
    "tp 2, cp 2": replace(ALONE, tp=2, cp=2, etp=2),
    "tp 2, cp 2, pp 2": replace(ALONE, tp=2, cp=2, pp=2, etp=2),
}
"""By name; the ranks that are left are data parallel."""
PORTS = "ports.json"
"""File that says at which port the ranks meet for each layout."""


def check(place: Place) -> Outcome:
    """Take the same step at every layout that the ranks allow."""
    count = num_ranks(place)
    folder = place.folder / "ranks"
    folder.mkdir()
    write_json(folder / PORTS, {name: rendezvous_port() for name in _names(count)})
    outcome = on_ranks(place, _RANK_WORK, folder.name, count=count)
    twin = ["CPU twin: over gloo"] if place.is_rehearsal else []
    return Outcome(figures=outcome.figures, notes=[f"{count} ranks", *twin])


def _names(count: int) -> list[str]:
    return [name for name, layout in LAYOUTS.items() if count % layout.model_size == 0]
