"""Weights of a Megatron checkpoint, read one parameter at a time.

Megatron's own interface takes a whole model; torch's distributed checkpoint, whose files Megatron
writes, reads what it is asked for. Whatever layout wrote a checkpoint, whole tensors come out.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from megatron_rl.conversion.families import WeightRule, weight_rules
from megatron_rl.conversion.layouts import to_huggingface
from megatron_rl.conversion.stacked import Stacks
from megatron_rl.errors import CheckpointError, ModelError
from megatron_rl.learner.checkpoint.abstract_model import AbstractModel, chunk_of, merged, pieces
from megatron_rl.learner.checkpoint.contents import open_checkpoint, stored_tensors

_EMBEDDING = "embedding.word_embeddings.weight"
_OUTPUT = "output_layer.weight"
_OPTIMIZER = "optimizer."


class CheckpointWeights:
    """The weights of a checkpoint by Hugging Face name; holds one Megatron parameter at a time.

    Of a tensor that has all experts of a layer, it holds the whole tensor.
    """

    def __init__(self, folder: Path, model: AbstractModel) -> None:
        """Compare the checkpoint with the model.

        Raises:
            ModelError: it is of another model; names the first tensor that differs.
            CheckpointError: it is damaged.
        """
        self._folder = folder
        self._model = model
        self._reader, metadata = open_checkpoint(folder)
        self._stored = stored_tensors(metadata)
        _check_shapes(model, self._stored, folder)
        self._rules_of: dict[str, list[WeightRule]] = {}
        for rule in weight_rules(model.spec):
            for name in rule.huggingface:
                self._rules_of.setdefault(name, []).append(rule)
        self._latest: dict[str, Tensor] = {}

    def __call__(self, name: str) -> Tensor:
        """Return one whole tensor."""
        if name not in self._latest:
            self._latest = {}  # before the next ones are made
            stacks = Stacks(self._model.spec.num_experts)
            self._latest = {
                each: tensor
                for rule in self._rules_of[name]
                for each, tensor in stacks.completed(rule, self._tensors(rule))
            }
        return self._latest[name]

    def _tensors(self, rule: WeightRule) -> tuple[Tensor, ...]:
        spec = self._model.spec
        return to_huggingface(
            rule.layout,
            self._read(rule),
            num_groups=spec.num_groups,
            head_dim=spec.head_dim,
            interleaved_dim=spec.interleaved_dim,
            vocab_size=spec.vocab_size,
        )

    def _read(self, rule: WeightRule) -> Tensor:
        entry = self._model.params[rule.megatron]
        return merged(entry, [self._read_piece(piece) for piece in pieces(entry, None)])

    def _read_piece(self, piece: ShardedTensor) -> Tensor:
        stored, place = self._stored[piece.key], chunk_of(piece)
        target = torch.empty(place.sizes, dtype=stored.properties.dtype)
        plan = LoadPlan(create_read_items_for_chunk_list(piece.key, stored, [place]))
        try:
            dcp.load({}, storage_reader=self._reader, planner=_IntoOneTensor(plan, target))
        except CheckpointException as error:
            (cause, _), *_ = error.failures.values()
            raise CheckpointError(
                f"{self._folder}: {piece.key} cannot be read ({type(cause).__name__}); copy the "
                "checkpoint again, or use another step"
            ) from error
        return target.view(piece.local_shape)


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the type of the weights in a checkpoint.

    Raises:
        CheckpointError: the folder is no Megatron checkpoint of a GPT, or it is damaged.
    """
    _, metadata = open_checkpoint(folder)
    stored = stored_tensors(metadata)
    if _EMBEDDING not in stored:
        raise CheckpointError(f"{folder}: has no {_EMBEDDING}, so this is no checkpoint of a GPT")
    return stored[_EMBEDDING].properties.dtype


class _IntoOneTensor(DefaultLoadPlanner):
    """Tells torch to read a plan, all of it into one tensor."""

    def __init__(self, plan: LoadPlan, target: Tensor) -> None:
        super().__init__(flatten_state_dict=False)
        self._plan = plan
        self._target = target

    def create_local_plan(self) -> LoadPlan:
        return self._plan

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self._target


def _check_shapes(
    model: AbstractModel, stored: Mapping[str, TensorStorageMetadata], folder: Path
) -> None:
    names = set()
    for entry in model.params.values():
        for piece in pieces(entry, None):
            names.add(piece.key)
            _check_piece(piece, stored, folder)
    for name in sorted(stored.keys() - names):
        if name == _OUTPUT:
            raise ModelError(
                f"{folder}: has an {_OUTPUT} of its own, but config.json ties it to the embedding; "
                "name the model that was trained with --model"
            )
        if not name.startswith(_OPTIMIZER):
            raise ModelError(f"{folder}: tensor {name} has no place in config.json")


def _check_piece(
    piece: ShardedTensor, stored: Mapping[str, TensorStorageMetadata], folder: Path
) -> None:
    if piece.key not in stored:
        raise ModelError(
            f"{folder}: tensor {piece.key} {tuple(piece.global_shape)} of config.json is missing; "
            "name the model that was trained with --model"
        )
    entry = stored[piece.key]
    if not _fits(piece, entry):
        raise ModelError(
            f"{folder}: tensor {piece.key} is {tuple(entry.size)} in the checkpoint, but "
            f"{tuple(piece.global_shape)} by config.json; name the model that was trained with "
            "--model"
        )


def _fits(piece: ShardedTensor, entry: TensorStorageMetadata) -> bool:
    wanted, found = tuple(piece.global_shape), tuple(entry.size)
    if piece.allow_shape_mismatch:
        # The vocabulary is padded to a multiple of the tensor-parallel ranks, one part each.
        return wanted[1:] == found[1:] and 0 <= found[0] - wanted[0] < len(entry.chunks)
    return wanted == found
