"""Speed of training a made-up shape, and its model FLOPs utilisation."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_rl.config import Precision, RunConfig, resolve
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.precision import Device, check_precision
from megatron_rl.parallelism.flops import training_flops
from megatron_rl.parallelism.memory import RESERVE_GIB
from megatron_rl.parallelism.parameters import num_parameters
from megatron_rl.parallelism.utilisation import peak_flops, utilisation
from megatron_rl.programs.builders.hardware import local_device
from megatron_rl.programs.checks.learner_memory import estimate_learner_memory
from megatron_rl.programs.gpu_stages.shapes import Shape, write_config
from megatron_rl.programs.gpu_stages.sizes import sizes_of
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place
from megatron_rl.sequences import Sequences

_GIB = 2**30
RECOMPUTED: Mapping[str, Any] = {
    "recompute_granularity": "full",
    "recompute_method": "uniform",
    "recompute_num_layers": 1,
}
"""Fields of Megatron's TransformerConfig that keep no activation but a layer's input."""
_MFU = Limit(
    at_least=15,
    reason="dense models of this size reach 35 to 50 % with fused kernels; a third of that means "
    "that one of them is missing, or that the GPU is slowed down or shared",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What is trained: rows that one sequence fills each."""

    shape: Shape
    length: int
    """Tokens of a sequence, and of a row."""
    rows: int
    """Rows of a rank in one step."""
    precision: Precision
    is_recomputed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How fast training was."""

    device: str
    is_first: bool
    """Whether this is the first rank; all have the same numbers."""
    num_ranks: int
    num_parameters: int
    tokens_per_s: float
    """Of all ranks."""
    flops: float
    """FLOP/s of one rank, without recomputation."""
    mfu: float | None
    """None where the device's peak is not known."""


class OpenTraining:
    """Learner of random weights and what it is trained on; every rank has one."""

    def __init__(self, training: Training, folder: Path, *, steps: int) -> None:
        """Build the learner; config.json is written into ``folder``."""
        from megatron_rl.programs.builders.learner import open_learner

        self.config = training_config(training, folder)
        self.spec = read_model_spec(folder)
        self.learner, self.parallel, self.platform = open_learner(
            self.config,
            self.config.learner.optimizer,
            objective=None,
            pretrained=None,
            temperature=1.0,
            total_steps=steps,
        )
        self.num_rows = training.rows * self.parallel.dp_size
        self.sequences = full_rows(self.num_rows, training.length, self.spec.vocab_size)

    def step(self) -> None:
        """Take one step; it ends with metrics on the host, so its time is whole."""
        self.learner.update_supervised(self.sequences)


def check_bf16(place: Place) -> Outcome:
    """Measure the model in bf16."""
    return _check(place, "bf16")


def check_fp8(place: Place) -> Outcome:
    """Measure the model in FP8; a rehearsal has bf16 instead."""
    if place.is_rehearsal:
        outcome = _check(place, "bf16")
        return Outcome(
            figures=outcome.figures, notes=["CPU twin: bf16 instead of FP8", *outcome.notes]
        )
    return _check(place, "fp8")


def _check(place: Place, precision: Precision) -> Outcome:
    sizes = sizes_of(place)
    try:
        training = training_of(place, precision)
    except ConfigError as error:
        return Outcome(skipped=str(error))
    if training is None:
        return Outcome(skipped=f"no GPU here holds {sizes.trained[-1].name} under training")
    speed = measure_speed(training, place.folder / "model", steps=sizes.steps)
    figures = [
        Figure(name="parameters", value=speed.num_parameters / 1e9, unit="billion"),
        Figure(name="tokens", value=speed.tokens_per_s, unit="tokens/s"),
        Figure(name="model FLOPs", value=speed.flops / 1e12, unit="TFLOP/s"),
    ]
    notes = [f"{training.shape.name}, rows of {training.length} tokens, on {speed.device}"]
    if speed.mfu is None:
        notes.append("no MFU: the peak of this device is not known")
    else:
        # The peak in FP8 is twice as high, which attention and small products do not see.
        limit = _MFU if precision == "bf16" else None
        figures.append(Figure(name="MFU", value=100 * speed.mfu, unit="%", limit=limit))
    return Outcome(figures=figures, notes=notes)


def training_of(place: Place, precision: Precision) -> Training | None:
    """Return what is trained here: the first of the shapes that fits, None when none does.

    Raises:
        ConfigError: the device cannot compute in this precision.
    """
    sizes, device = sizes_of(place), local_device()
    if place.is_rehearsal:
        device = Device(capability=None, te_version=None)
    shapes = [
        Training(shape=shape, length=sizes.length, rows=sizes.rows, precision=precision)
        for shape in sizes.trained
    ]
    check_precision(precision, training_config(shapes[0], place.folder / "fit").learner.fp8, device)
    if place.is_rehearsal:
        return shapes[0]
    room = torch.cuda.mem_get_info(0)[0] / _GIB - RESERVE_GIB
    return next((found for found in shapes if estimated_gib(found, place.folder) <= room), None)


def estimated_gib(training: Training, scratch: Path) -> float:
    """Return the planner's estimate of one rank alone."""
    folder = scratch / "fit"
    config = training_config(training, folder)
    return estimate_learner_memory(config, read_model_spec(folder)).total / _GIB


def measure_speed(training: Training, folder: Path, *, steps: int) -> Speed:
    """Train for ``steps`` steps after a first that is left out; every rank calls it together."""
    from megatron_rl.learner.device.parallel import shut_down_parallel

    opened = OpenTraining(training, folder, steps=steps + 1)
    opened.step()
    started = time.monotonic()
    for _ in range(steps):
        opened.step()
    seconds = (time.monotonic() - started) / steps
    speed = _speed(opened, training, seconds)
    shut_down_parallel()
    return speed


def _speed(opened: OpenTraining, training: Training, seconds: float) -> Speed:
    lengths = [training.length] * opened.num_rows
    flops = float(training_flops(lengths, opened.spec).sum())
    size = opened.parallel.world_size
    is_gpu = opened.platform.capability is not None
    device = torch.cuda.get_device_name() if is_gpu else "CPU"
    peak = peak_flops(device, training.precision)
    return Speed(
        device=device,
        is_first=opened.parallel.is_first,
        num_ranks=size,
        num_parameters=num_parameters(opened.spec),
        tokens_per_s=opened.num_rows * training.length / seconds,
        flops=flops / seconds / size,
        mfu=None if peak is None else utilisation(flops, seconds=seconds, num_gpus=size, peak=peak),
    )


def training_config(training: Training, folder: Path) -> RunConfig:
    """Return the settings of a learner whose every row is one sequence; write its config.json."""
    write_config(folder, training.shape.config(max_positions=training.length + 1))
    return resolve(
        {
            "run_dir": folder / "run",
            "num_steps": 1,
            "model": {"path": folder, "init": "random", "dtype": "bfloat16"},
            "data": {"train": folder / "none"},
            "generators": {"sampling": {"max_new_tokens": training.length}},
            "learner": {
                "token_budget": training.length,
                "precision": training.precision,
                "megatron": dict(RECOMPUTED) if training.is_recomputed else {},
            },
        }
    )


def full_rows(count: int, length: int, vocab_size: int) -> Sequences:
    """Make up sequences that take ``length`` tokens of a row each; all but the first are learnt."""
    total = count * (length + 1)  # the last token of a sequence is only predicted
    return Sequences(
        token_ids_T=np.random.default_rng(0).integers(0, vocab_size, total),
        offsets=np.arange(count + 1) * (length + 1),
        loss_mask_T=np.ones(total, dtype=bool),
        behavior_logprobs_T=np.zeros(total, dtype=np.float32),
        advantages_N=np.ones(count, dtype=np.float32),
        weights_N=np.full(count, 1 / (count * length), dtype=np.float32),
    )
