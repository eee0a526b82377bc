"""Model identity of a checkpoint: facts beside it, compared before anything is loaded."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from megatron_rl.errors import CheckpointError
from megatron_rl.model_spec import ModelSpec
from megatron_rl.run_dir import write_json

_MODEL = "model.json"
# These change neither a weight's shape nor what is computed with it.
_FREE = ("init_std", "max_positions")
_FOLDER = "model.path"
# Where a run says what is not in its model's folder.
_PLACE = {"rope_scaling": f"{_FOLDER} with model.rope_scaling"}


def write_model_facts(folder: Path, spec: ModelSpec) -> None:
    """Leave what ``check_same_model`` compares in a checkpoint's folder."""
    write_json(folder / _MODEL, _facts(spec))


def check_same_model(folder: Path, spec: ModelSpec) -> None:
    """Compare with the model of this run; a checkpoint without facts is taken as it is.

    Raises:
        CheckpointError: it is of another architecture; names what differs, with both values.
    """
    path = folder / _MODEL
    if not path.exists():
        return
    try:
        stored = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged: {error!r}") from error
    wanted = _facts(spec)
    differing = [
        f"{key} is {stored[key]} in the checkpoint and {wanted[key]} in {_PLACE.get(key, _FOLDER)}"
        for key in wanted
        if key in stored and stored[key] != wanted[key]
    ]
    if differing:
        raise CheckpointError(
            f"{folder} is of another model: {', '.join(differing)}; go back to the model it was "
            "made with, or name another run_dir"
        )


def _facts(spec: ModelSpec) -> dict[str, Any]:
    facts = {k: v for k, v in dataclasses.asdict(spec).items() if k not in _FREE}
    return dict(json.loads(json.dumps(facts)))  # as they look when they are read again
