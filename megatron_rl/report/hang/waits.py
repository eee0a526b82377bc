"""Waits of a process, told from its stack: which collective it is in, and who called it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_rl.report.hang.stacks import Frame

Kind = Literal["collective", "device", "known", "elsewhere"]

_COLLECTIVES_FILE = "torch/distributed/distributed_c10d.py"
# Functions of that file that wait for nobody.
_NO_WAITS = frozenset({"wrapper", "get_rank", "get_world_size", "destroy_process_group"})
_DEVICE_FILES = ("torch/cuda/__init__.py", "torch/cuda/streams.py")
_PLUMBING = ("torch/", "<frozen", "threading.py", "asyncio/", "selectors.py", "contextlib.py")

KNOWN: Mapping[tuple[str, str], str] = {
    ("megatron_rl/learner/rank_consensus.py", "_wait"): (
        "looks for a batch, an evaluation or a server, so it is rollout or a server that is late"
    ),
    ("megatron_rl/batch_files.py", "read"): "waits until this machine sees the batch's file",
    ("megatron_rl/weight_sync/admin.py", "_call"): "waits for a server to answer",
    ("megatron_rl/weight_sync/fleet.py", "on_each"): "waits for the servers to answer",
    ("megatron_rl/weight_sync/fleet.py", "errors_of"): "waits for the servers to answer",
    ("megatron_rl/programs/loops/checkpointing.py", "save_and_wait"): "waits for a checkpoint",
    ("selectors.py", "select"): (
        "waits in its event loop, for servers, the judge, or room for another batch"
    ),
    ("torch/distributed/rendezvous.py", "rendezvous"): "waits for the other ranks to start",
}
"""Places where a program waits for something else than a collective, and what it waits for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """Place where a process is."""

    kind: Kind
    """``device``: the host waits for its GPU, whatever that does. ``elsewhere``: it may be at work,
    or wait for something that this module does not know."""
    what: str
    """The collective, what is waited for, or the function it is in."""
    caller: str
    """The innermost call outside of torch and the standard library: ``function (file:line)``."""


def wait_of(frames: Sequence[Frame]) -> Wait:
    """Tell where a stack is, its innermost call first."""
    caller = _caller(frames)
    for i, frame in enumerate(frames):
        place = (_in_package(frame.file), frame.function.rpartition(".")[2])
        if place in KNOWN:
            return Wait(kind="known", what=KNOWN[place], caller=caller)
        if place[0] == _COLLECTIVES_FILE and place[1] not in _NO_WAITS:
            return Wait(kind="collective", what=_outermost(frames[i:]), caller=caller)
        if place[0] in _DEVICE_FILES and place[1] == "synchronize":
            return Wait(kind="device", what="waits for its GPU", caller=caller)
    return Wait(kind="elsewhere", what=_words(frames[0]) if frames else "no call", caller=caller)


def _outermost(frames: Sequence[Frame]) -> str:
    """Return the collective that our code asked for, which may be made of others."""
    name = frames[0].function
    for frame in frames:
        if not frame.file.endswith(("distributed_c10d.py", "c10d_logger.py")):
            break
        if frame.file.endswith("distributed_c10d.py") and not frame.function.startswith("_"):
            name = frame.function
    return name


def _caller(frames: Sequence[Frame]) -> str:
    own = [frame for frame in frames if not _in_package(frame.file).startswith(_PLUMBING)]
    return _words(own[0]) if own else ""


def _words(frame: Frame) -> str:
    return f"{frame.function} ({frame.file}:{frame.line})"


def _in_package(file: str) -> str:
    """Cut what comes before the package, where py-spy has not."""
    for package in ("megatron_rl/", "torch/"):
        if f"/{package}" in file:
            return package + file.rpartition(f"/{package}")[2]
    return file
