"""Recording of what a model's own ``load_weights`` does with every tensor of a checkpoint.

The loader is called with tensors without memory, see ``tracing``. Where one of them stops it, it is
called again without that one, and so on; what it does not take apart and copy is unmapped, and has
to be sent whole and loaded as ever.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .regions import RefusedError, dtype_named, tensors_of
from .tracing import Copy, Trace, Whole

Described = tuple[str, str, Sequence[int]]
"""Name, type and shape of a tensor."""

# Each calls the loader with all tensors; a model that needs more is not worth it.
_MOST_ATTEMPTS = 32


class Recording(NamedTuple):
    """Copies of a model's loader, on one rank.

    A tensor of which this rank holds nothing is in neither.
    """

    copies: list[Copy]
    unmapped: dict[str, str]
    """Reason by name of each tensor with which the loader did something else."""


@torch.no_grad()
def record(model: torch.nn.Module, tensors: Sequence[Described]) -> Recording:
    """Return what ``model.load_weights`` does with tensors of (name, dtype, shape).

    Parameters are as before, but for what a loader itself fills with a number: padding with zeros.
    """
    _check_described(tensors)
    unmapped: dict[str, str] = {}
    rest = list(tensors)
    for _ in range(_MOST_ATTEMPTS):
        trace, error = _attempt(model, rest)
        if error is None:
            _mark_waiting(trace, unmapped)
            unmapped |= trace.unmapped
            kept = [copy for copy in trace.copies if copy.tensor not in unmapped]
            return Recording(copies=kept, unmapped=unmapped)
        unmapped |= trace.unmapped or _culprits(model, rest, trace.last, error)
        rest = [tensor for tensor in rest if tensor[0] not in unmapped]
    reason = f"the loader stops at too many others, the last time with {error}"
    return Recording(copies=[], unmapped=unmapped | {tensor[0]: reason for tensor in rest})


def _check_described(tensors: Sequence[Described]) -> None:
    """Raise RefusedError for anything but different names, types of torch's, and shapes."""
    if not isinstance(tensors, list | tuple):
        raise RefusedError(f"tensors are no list: {tensors!r:.100}")
    names = set()
    for described in tensors:
        if not isinstance(described, list | tuple) or len(described) != 3:
            raise RefusedError(f"not a tensor: {described!r:.100}")
        name, dtype, shape = described
        if type(name) is not str or name in names or not isinstance(shape, list | tuple):
            raise RefusedError(f"not a tensor, or one twice: {described!r:.100}")
        if any(type(size) is not int or not 0 <= size < 2**40 for size in shape):
            raise RefusedError(f"not a shape of a tensor: {described!r:.100}")
        dtype_named(dtype)
        names.add(name)


def _attempt(model: torch.nn.Module, tensors: Sequence[Described]) -> tuple[Trace, str | None]:
    """Call the loader; return what it did, and the error that it stopped with."""
    trace, saved, failure = Trace(tensors_of(model)), _Saved(model), None
    try:
        load_weights: Any = model.load_weights
        load_weights(trace.wholes(tensors))
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"[:200]
    saved.put_back(trace)
    if failure is None:
        trace.finish()
    return trace, failure


def _culprits(
    model: torch.nn.Module, tensors: Sequence[Described], last: str, error: str
) -> dict[str, str]:
    """Return the reason by name of a tensor that stops the loader also by itself; else of all.

    A loader that takes one after the other was stopped by the last; others are halved.
    """
    suspects = [tensor for tensor in tensors if tensor[0] == last]
    trace, alone = _attempt(model, suspects)
    if alone is None:
        suspects = list(tensors)
        while len(suspects) > 1:
            half = suspects[: len(suspects) // 2]
            suspects = half if _attempt(model, half)[1] else suspects[len(half) :]
        trace, alone = _attempt(model, suspects)
    if alone is None:
        reason = f"together with others it stops the loader: {error}"
        return {tensor[0]: reason for tensor in tensors}
    return trace.unmapped or {tensor[0]: alone for tensor in suspects}


def _mark_waiting(trace: Trace, excluded: dict[str, str]) -> None:
    """Mark what the loader keeps for others, some of which it was not given."""
    if excluded:
        idle = trace.waiting - {copy.tensor for copy in trace.copies}
        trace.mark_names(idle, "the loader keeps it for others, some of which stop it")


class _Saved:
    """Where a model keeps its tensors, to be put back as it was."""

    def __init__(self, model: torch.nn.Module) -> None:
        modules = list(model.modules())
        self._tables: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (table, dict(table)) for m in modules for table in (m._parameters, m._buffers)
        ]
        self._attributes = [
            (m, {name: value for name, value in vars(m).items() if isinstance(value, Tensor)})
            for m in modules
        ]
        self._data = [
            (name, tensor, tensor.data)
            for name, tensor in (*model.named_parameters(), *model.named_buffers())
        ]

    def put_back(self, trace: Trace) -> None:
        """Undo what a loader did by replacing a tensor, or its memory, instead of copying."""
        for table, before in self._tables:
            self._mark_replacements(trace, table.values())
            if [*map(id, table.values())] != [*map(id, before.values())]:
                table.clear()
                table.update(before)
        for module, attributes in self._attributes:
            now = {name: value for name, value in vars(module).items() if isinstance(value, Whole)}
            trace.mark(list(now.values()), "the loader keeps it")
            for name in now:
                delattr(module, name)
                if name in attributes:
                    setattr(module, name, attributes[name])
        for name, tensor, data in self._data:
            is_same = tensor.shape == data.shape and tensor.stride() == data.stride()
            if tensor.data_ptr() != data.data_ptr() or not is_same:
                trace.spoil(name)
                tensor.data = data

    def _mark_replacements(self, trace: Trace, tensors: Iterable[Tensor | None]) -> None:
        for found in tensors:
            if isinstance(found, Whole):
                reason = "the loader replaces a parameter by it"
                trace.unmapped |= dict.fromkeys(found.lineage, reason)
