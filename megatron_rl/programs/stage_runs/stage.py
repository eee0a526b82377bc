"""Stage of a check, and the place in which its process works."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.run_dir import write_json

_FILE = "place.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One thing that is tried, in a process of its own."""

    name: str
    shows: str
    """What it shows, in a few words."""
    work: str
    """``module:function``; the function takes a Place and returns an Outcome."""
    limit_s: float
    """Time limit on a GPU."""
    num_gpus: int = 1
    """GPUs without which it is skipped; a rehearsal takes as many CPU processes."""
    server: str | None = None
    """Name of the server it talks to; neighbours in the table share one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the process of a stage works, and with what."""

    folder: Path
    """The stage's own."""
    shared: Path
    """For what several stages need, such as models."""
    is_rehearsal: bool
    """On the CPU, in small sizes."""
    gpus: tuple[str, ...]
    """Identifiers as in CUDA_VISIBLE_DEVICES; none in a rehearsal."""
    serving_python: Path
    server: str | None = None
    """Name of the stage's server, or of the server that this process keeps."""
    server_dir: Path | None = None
    """Run folder of that server."""


def write_place(place: Place) -> None:
    """Leave the place in its own folder, for the process to read."""
    record = dataclasses.asdict(place)
    write_json(
        place.folder / _FILE,
        {name: str(value) if isinstance(value, Path) else value for name, value in record.items()},
    )


def read_place(folder: Path) -> Place:
    """Return what :func:`write_place` left."""
    record = json.loads((folder / _FILE).read_text())
    server_dir = record["server_dir"]
    return Place(
        folder=Path(record["folder"]),
        shared=Path(record["shared"]),
        is_rehearsal=record["is_rehearsal"],
        gpus=tuple(record["gpus"]),
        serving_python=Path(record["serving_python"]),
        server=record["server"],
        server_dir=None if server_dir is None else Path(server_dir),
    )
