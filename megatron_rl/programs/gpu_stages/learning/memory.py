"""Memory of a learner under training, against the planner's estimate."""

import gc
from collections.abc import Iterator

import torch

from megatron_rl.errors import ConfigError
from megatron_rl.parallelism.memory import RESERVE_GIB, Memory
from megatron_rl.programs.checks.learner_memory import estimate_learner_memory
from megatron_rl.programs.gpu_stages.learning.speed import OpenTraining, training_of
from megatron_rl.programs.gpu_stages.sizes import sizes_of
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place

_MIB, _GIB = 2**20, 2**30
_STATE = Limit(
    at_least=0.98,
    at_most=1.05,
    reason="weights, gradients, float32 weights and moments are counted tensor by tensor in both; "
    "padding, and tables such as the rotation's, are some hundredths",
)
_NOT_COUNTED = Limit(
    at_most=RESERVE_GIB,
    reason=f"plan keeps {RESERVE_GIB:g} GiB of a GPU free for what it does not count, so a layout "
    "that it lets pass must not take more than that beyond its estimate",
)
_NOT_TOO_MUCH = Limit(
    at_least=0.5, reason="an estimate of twice the need would refuse layouts that fit"
)


def check(place: Place) -> Outcome:
    """Train a few steps; compare what is held, and the peak of a GPU, with the estimate."""
    from megatron_rl.learner.device.parallel import shut_down_parallel

    try:
        training = training_of(place, "bf16")
    except ConfigError as error:
        return Outcome(skipped=str(error))
    if training is None:
        name = sizes_of(place).trained[-1].name
        return Outcome(skipped=f"no GPU here holds {name} under training")
    opened = OpenTraining(training, place.folder / "model", steps=2)
    opened.step()
    opened.step()
    memory = estimate_learner_memory(opened.config, opened.spec)
    held = held_bytes(opened.platform.device)
    figures = [*_state(memory, held)]
    if not place.is_rehearsal:
        figures += list(_peak(memory, torch.cuda.max_memory_allocated()))
    shut_down_parallel()
    notes = [f"{training.shape.name} in bf16, rows of {training.length} tokens"]
    if place.is_rehearsal:
        notes.append("CPU twin: what is held between steps; a CPU has no peak to ask for")
    return Outcome(figures=figures, notes=notes)


def held_bytes(device: torch.device) -> int:
    """Return the bytes of all tensors of this process on a device, shared memory once."""
    storages = {}
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor) and found.device.type == device.type:
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _state(memory: Memory, held: int) -> Iterator[Figure]:
    estimated = memory.weights + memory.gradients + memory.optimizer
    yield Figure(
        name="weights, gradients, optimiser: estimated", value=estimated / _MIB, unit="MiB"
    )
    yield Figure(name="tensors held between steps", value=held / _MIB, unit="MiB")
    yield Figure(name="held over estimated", value=held / estimated, unit="times", limit=_STATE)


def _peak(memory: Memory, peak: int) -> Iterator[Figure]:
    yield Figure(name="all: estimated", value=memory.total / _GIB, unit="GiB")
    yield Figure(name="peak of the GPU", value=peak / _GIB, unit="GiB")
    yield Figure(
        name="peak beyond the estimate",
        value=(peak - memory.total) / _GIB,
        unit="GiB",
        limit=_NOT_COUNTED,
    )
    yield Figure(
        name="peak over estimated", value=peak / memory.total, unit="times", limit=_NOT_TOO_MUCH
    )
