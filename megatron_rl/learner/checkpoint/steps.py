"""Checkpoint steps in a folder: complete, latest, to be removed. Needs no Megatron."""

import json
import re
import shutil
from pathlib import Path

from megatron_rl.errors import CheckpointError
from megatron_rl.run_dir import write_json

_STEP = re.compile(r"step_(\d{6,})")
_LATEST = "latest.json"
_REMOVED = ".removed"


def step_folder(root: Path, step: int) -> Path:
    """Return where the checkpoint of ``step`` lies."""
    return root / f"step_{step:06d}"


def partial_folder(root: Path, step: int) -> Path:
    """Return where the checkpoint of ``step`` lies while it is written."""
    return root / f".{step_folder(root, step).name}.partial"


def latest_step(root: Path) -> int | None:
    """Return the newest complete checkpoint's step, None without one.

    Raises:
        CheckpointError: the pointer is damaged, or names a checkpoint that is gone.
    """
    pointer = root / _LATEST
    if not pointer.exists():
        return None
    try:
        step = int(json.loads(pointer.read_text())["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{pointer}: cannot be read: {error!r}") from error
    if not step_folder(root, step).is_dir():
        raise CheckpointError(
            f"{pointer} names step {step}, but {step_folder(root, step)} is missing; restore it, "
            f"or point to one of: {', '.join(map(str, complete_steps(root))) or 'none left'}"
        )
    return step


def remedy(folder: Path) -> str:
    """Say how to go on without the checkpoint in ``folder``."""
    root, steps = folder.parent, complete_steps(folder.parent)
    before = steps[: [step_folder(root, step) for step in steps].index(folder)]
    if not before:
        return f"there is none before it; remove {root} to start over"
    return (
        f"to resume from the one before, remove {folder} and write "
        f'{{"step": {before[-1]}}} to {root / _LATEST}'
    )


def name_latest(root: Path, step: int) -> None:
    """Make ``step`` the one a run continues from; its folder is complete."""
    write_json(root / _LATEST, {"step": step})


def complete_steps(root: Path) -> list[int]:
    """Return the steps of all complete checkpoints, oldest first."""
    matches = (_STEP.fullmatch(path.name) for path in root.glob("step_*") if path.is_dir())
    return sorted(int(match.group(1)) for match in matches if match)


def cut_off_checkpoints(root: Path) -> list[Path]:
    """Return what a crash left half-written; none of it is ever chosen."""
    return sorted(root.glob(".step_*.partial"))


def remove_old_checkpoints(root: Path, *, keep: int, keep_every: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what a crash left half-written.

    Multiples of ``keep_every`` stay for good (0: none). A step beyond the latest is of a future
    that the user went back from by changing the pointer: it neither counts nor is deleted.
    """
    latest = latest_step(root)
    steps = [step for step in complete_steps(root) if latest is not None and step <= latest]
    for step in steps[:-keep]:
        if keep_every == 0 or step % keep_every:
            _hide(step_folder(root, step))
    for leftover in (*cut_off_checkpoints(root), *root.glob(f".step_*{_REMOVED}")):
        shutil.rmtree(leftover)


def _hide(folder: Path) -> None:
    """Take a checkpoint's name away first, so that one removed in part never looks complete."""
    hidden = folder.with_name(f".{folder.name}{_REMOVED}")
    if hidden.exists():
        shutil.rmtree(hidden)
    folder.rename(hidden)
