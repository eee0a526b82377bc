"""Principal directions of a run's checkpoints, and the weights of any point of their plane.

One tensor of every checkpoint is in memory at a time; the directions are kept as folders of
float32 tensors, since every point of a map needs them again.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megatron_rl.algorithm.weight_space import Directions, principal_directions
from megatron_rl.config import RunConfig
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.errors import CheckpointError, ConfigError
from megatron_rl.hf_folder import WeightReader, write_hf_folder
from megatron_rl.learner.checkpoint.abstract_model import open_abstract_model
from megatron_rl.learner.checkpoint.steps import complete_steps, step_folder
from megatron_rl.learner.checkpoint.weights_reader import CheckpointWeights, stored_dtype
from megatron_rl.programs.builders.model import exported_fields, trained_spec
from megatron_rl.report.progress_bar import progress_bar
from megatron_rl.run_dir import RunDir, write_json

Read = Callable[[str], Tensor]
_CHUNK = 2**22
_SHARD_BYTES = 2**32
_RECORD = "directions.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightPlane:
    """The plane through the last checkpoint along both directions."""

    steps: tuple[int, ...]
    """Of the checkpoints it is made from, oldest first."""
    directions: Directions
    names: tuple[str, ...]
    origin: Read
    """Weights of the last checkpoint by Hugging Face name."""
    along: tuple[Read, Read]

    def weights_at(self, first: float, second: float) -> Iterator[tuple[str, Tensor]]:
        """Yield name and tensor of ``w* + first * c_1 + second * c_2``, in the type of ``w*``."""
        for name in self.names:
            origin = self.origin(name)
            moved = origin.double()
            for distance, read in zip((first, second), self.along, strict=True):
                moved = moved + distance * read(name).double()
            yield name, moved.to(origin.dtype)


@contextlib.contextmanager
def open_plane(config: RunConfig, out: Path) -> Iterator[WeightPlane]:
    """Find the plane of a run, or take the one found before from ``out``.

    Raises:
        ConfigError: the run has fewer than three checkpoints, or they do not differ.
        CheckpointError, ModelError: one is damaged, or of another model.
    """
    checkpoints = RunDir(config.run_dir).checkpoints
    steps = tuple(complete_steps(checkpoints))
    if len(steps) < 3:
        raise ConfigError(
            f"{checkpoints}: {len(steps)} checkpoints, of which a plane needs three at least; keep "
            "more with checkpoint.keep_every (a divisor of num_steps and multiple of "
            "checkpoint.every)"
        )
    folders = [step_folder(checkpoints, step) for step in steps]
    spec = trained_spec(config)
    names = tuple(name for name, _ in tensor_shapes(spec))
    threads = config.learner.cpu_threads
    with open_abstract_model(spec, dtype=stored_dtype(folders[-1]), cpu_threads=threads) as model:
        reads = [CheckpointWeights(folder, model) for folder in folders]
        directions = _known_directions(out, steps)
        if directions is None:
            directions = _find_directions(reads, names, checkpoints)
            _keep(out, directions, steps, reads, names, config=config)
        yield WeightPlane(
            steps=steps,
            directions=directions,
            names=names,
            origin=reads[-1],
            along=(WeightReader(_folder(out, 0)), WeightReader(_folder(out, 1))),
        )


def _find_directions(reads: Sequence[Read], names: Sequence[str], checkpoints: Path) -> Directions:
    with progress_bar("comparing checkpoints, tensors", len(names)) as progress:
        gram_TT = np.zeros((len(reads), len(reads)))
        for name in names:
            gram_TT += difference_gram([read(name) for read in reads])
            progress.advance(progress.task_ids[0])
    if not np.isfinite(gram_TT).all():
        raise CheckpointError(f"{checkpoints}: a checkpoint holds NaN or infinity")
    try:
        return principal_directions(gram_TT)
    except ValueError as error:
        raise ConfigError(f"{checkpoints}: {error}") from error


def difference_gram(tensors_T: Sequence[Tensor]) -> NDArray[np.float64]:
    """Return the inner products of all pairs of differences to the last tensor, in float64."""
    flat = [tensor.flatten() for tensor in tensors_T]
    gram_TT = torch.zeros(len(flat), len(flat), dtype=torch.float64)
    for start in range(0, flat[0].numel(), _CHUNK):
        part_TW = torch.stack([each[start : start + _CHUNK].double() for each in flat])
        part_TW -= part_TW[-1].clone()
        gram_TT += part_TW @ part_TW.T
    return gram_TT.numpy()


def _keep(
    out: Path,
    directions: Directions,
    steps: Sequence[int],
    reads: Sequence[Read],
    names: Sequence[str],
    *,
    config: RunConfig,
) -> None:
    for number, mixture_T in enumerate(directions.mixtures_2T):
        with progress_bar(f"writing direction {number + 1}, tensors", len(names)) as progress:

            def mixed(
                mixture_T: NDArray[np.float64] = mixture_T, progress: Any = progress
            ) -> Iterator[tuple[str, Tensor]]:
                for name in names:
                    yield name, mix([read(name) for read in reads], mixture_T)
                    progress.advance(progress.task_ids[0])

            write_hf_folder(
                _folder(out, number),
                mixed(),
                source=config.model.path,
                config_changes=exported_fields(config),
                max_shard_bytes=_SHARD_BYTES,
            )
    # Last: its presence says that the folders are whole.
    write_json(
        out / _RECORD,
        {
            "steps": list(steps),
            "mixtures": directions.mixtures_2T.tolist(),
            "positions": directions.positions_T2.tolist(),
            "variance_shares": directions.shares_2.tolist(),
        },
    )


def mix(tensors_T: Sequence[Tensor], mixture_T: NDArray[np.float64]) -> Tensor:
    """Return ``sum_t mixture_T[t] * (tensors_T[t] - tensors_T[-1])`` in float32."""
    last = tensors_T[-1].double()
    total = torch.zeros_like(last)
    for tensor, share in zip(tensors_T[:-1], mixture_T[:-1].tolist(), strict=True):
        total += share * (tensor.double() - last)
    return total.float()


def _known_directions(out: Path, steps: Sequence[int]) -> Directions | None:
    """Return what an earlier call found; ConfigError when it was about other checkpoints."""
    path = out / _RECORD
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    if record["steps"] != list(steps):
        raise ConfigError(
            f"--out {out}: holds the directions of the checkpoints {record['steps']}, the run has "
            f"{list(steps)} now; name another folder"
        )
    return Directions(
        mixtures_2T=np.array(record["mixtures"]),
        positions_T2=np.array(record["positions"]),
        shares_2=np.array(record["variance_shares"]),
    )


def _folder(out: Path, number: int) -> Path:
    return out / f"direction_{number + 1}"
