"""Record of the stages that are over: at which step each ended, and why."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from megatron_rl.run_dir import RunDir, append_jsonl, drop_unfinished_line, read_jsonl


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEnd:
    """The end of one stage."""

    number: int
    """From 1."""
    name: str
    first_step: int
    end: int
    """Step, which is that of the checkpoint that the next stage begins with."""
    planned_steps: int
    """Of the stage, where no rule ends it."""
    reason: str
    restarted_groups: int
    """Groups in flight at the end, whose problems begin again in the next stage."""
    time: float
    """Seconds since the epoch."""


def read_stage_ends(run_dir: RunDir) -> list[StageEnd]:
    """Return the stages that are over, in order."""
    return [StageEnd(**record) for record in read_jsonl(run_dir.stages)]


def expected_steps(run_dir: RunDir, config: Mapping[str, Any]) -> int:
    """Return the steps of a run, given its ``config.json``: fewer where rules ended stages."""
    ends = read_stage_ends(run_dir)
    if not ends:
        return int(config["num_steps"])
    ahead = config["stages"][len(ends) :]
    return ends[-1].end + sum(stage["num_steps"] for stage in ahead)


def record_stage_end(run_dir: RunDir, ended: StageEnd) -> None:
    """Append a stage that is over, unless it is there; the learner is the only writer."""
    drop_unfinished_line(run_dir.stages)
    if all(known.number != ended.number for known in read_stage_ends(run_dir)):
        append_jsonl(run_dir.stages, asdict(ended))
