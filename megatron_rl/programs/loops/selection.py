"""Selection of the cold start's model: its candidates, their scores, and the best of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_rl.run_dir import RunDir, read_jsonl


def candidates_of(run_dir: RunDir) -> dict[int, Path]:
    """Return the folder of each candidate by its step, in order."""
    folders = sorted(run_dir.sft_candidates.glob("step_*"))
    return {int(folder.name.removeprefix("step_")): folder for folder in folders}


def scores_of(run_dir: RunDir) -> dict[int, Mapping[str, Any]]:
    """Return the record of each candidate that is scored, by its step."""
    return {record["step"]: record for record in read_jsonl(run_dir.sft_selection)}


def best_of(scores: Mapping[int, Mapping[str, Any]]) -> int:
    """Return the step of the candidate that solves most; of equals the earliest."""
    return min(scores, key=lambda step: (-scores[step]["pass@1"], step))


def describe_selection(run_dir: RunDir) -> list[str]:
    """Return a line for each candidate that is scored, the one that was chosen marked."""
    scores = scores_of(run_dir)
    if not scores:
        return []
    best = best_of(scores)
    return [
        f"cold start, step {step}: pass@1 {record['pass@1']:.1%}"
        + (", which RL starts from" if step == best and run_dir.is_cold_start_done else "")
        for step, record in sorted(scores.items())
    ]
