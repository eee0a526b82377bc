"""Models of a few parameters whose loaders are functions, for tests of recording."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from megatron_rl.serving_plugin.shard_receiver.recording import Recording, record
from megatron_rl.serving_plugin.shard_receiver.regions import tensors_of


class Model(torch.nn.Module):
    """Parameters by name, and a loader ``(model, name, tensor)``, or one of all tensors."""

    def __init__(
        self, load: Callable[..., Any], *, at_once: bool = False, **parameters: Tensor
    ) -> None:
        super().__init__()
        self.load, self.at_once = load, at_once
        for name, tensor in parameters.items():
            self.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        if self.at_once:
            self.load(self, weights)
            return
        for name, tensor in weights:
            self.load(self, name, tensor)


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return elements of which no two are equal, none zero."""
    return torch.arange(1, 1 + torch.Size(shape).numel()).to(dtype).view(shape)


def recorded(model: torch.nn.Module, **tensors: Tensor) -> Recording:
    """Record the loader with tensors like these; the model must be as it was, bit for bit."""
    before = _bits(model)
    recording = record(
        model,
        [(n, str(t.dtype).removeprefix("torch."), list(t.shape)) for n, t in tensors.items()],
    )
    assert _bits(model) == before
    assert not {copy.tensor for copy in recording.copies} & recording.unmapped.keys()
    return recording


def replay(model: torch.nn.Module, recording: Recording, **tensors: Tensor) -> None:
    """Do the copies of a recording with real tensors."""
    parameters = tensors_of(model)
    for copy in recording.copies:
        target = parameters[copy.parameter]
        assert copy.to_dtype == str(target.dtype).removeprefix("torch.")
        view = target.as_strided(
            copy.shape, copy.to_strides, target.storage_offset() + copy.to_offset
        )
        source = tensors[copy.tensor].contiguous()
        view.copy_(source.as_strided(copy.shape, copy.strides, copy.offset))


def _bits(model: torch.nn.Module) -> dict[str, Any]:
    """Return what each tensor is: object, memory, form and contents."""
    return {
        name: (
            *(type(tensor), id(tensor), tensor.data_ptr(), tensor.shape, tensor.stride()),
            tensor.detach().contiguous().view(-1).view(torch.uint8).tolist(),
        )
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
