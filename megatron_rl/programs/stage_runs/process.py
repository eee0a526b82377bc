"""Process of one stage, as the runner starts it: its work, its environment, its outcome."""

import faulthandler
import importlib
import json
import os
import signal
from pathlib import Path

from megatron_rl.programs.stage_runs.result import Outcome, outcome_record, read_outcome
from megatron_rl.programs.stage_runs.stage import Place, read_place
from megatron_rl.run_dir import write_json

_FILE = "outcome.json"

SINGLE_RANK = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
"""Ranks of a process that is alone, whatever the batch job around it says."""


def arguments_of(work: str, folder: Path) -> list[str]:
    """Return the arguments of ``megatron-rl`` that do the work in the folder's place."""
    return ["gpu-check", "--stage", work, "--into", str(folder)]


def be_stage(work: str, folder: Path) -> int:
    """Do the work and leave its outcome in the folder; of several ranks, the first does."""
    # A log that ends in a stack says where a stage crashed, or waited when its time was up.
    faulthandler.enable()
    faulthandler.register(signal.SIGTERM, chain=True)
    module, _, function = work.partition(":")
    outcome: Outcome = getattr(importlib.import_module(module), function)(read_place(folder))
    if "RANK" not in os.environ or os.environ["RANK"] == "0":
        write_json(folder / _FILE, outcome_record(outcome))
    return 0


def outcome_in(folder: Path) -> Outcome | None:
    """Return the outcome that a process left, None when it left none."""
    path = folder / _FILE
    return read_outcome(json.loads(path.read_text())) if path.exists() else None


def hidden_gpus(place: Place) -> dict[str, str]:
    """Return the variables that keep a rehearsal off the GPUs of its machine."""
    return {"CUDA_VISIBLE_DEVICES": ""} if place.is_rehearsal else {}
