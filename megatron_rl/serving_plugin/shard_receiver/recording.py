"""Recording of what a model's own ``load_weights`` does with every tensor of a checkpoint.

The loader is given tensors without memory. Their views know which part of which tensor they are,
and a copy of one into a parameter is noted instead of done. Whatever a loader does besides, such as
to compute with a tensor, makes the tensors that it did so with unmapped: these have to be sent
whole and loaded as ever.
"""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .regions import tensors_of


class Copy(NamedTuple):
    """Copy of a view of a checkpoint's tensor into a view of a parameter."""

    tensor: str
    offset: int
    shape: list[int]
    strides: list[int]
    parameter: str
    to_offset: int
    to_strides: list[int]
    to_dtype: str


class Recording(NamedTuple):
    """Copies of a model's loader, on one rank."""

    copies: list[Copy]
    unmapped: dict[str, str]
    """Reason by name of each tensor with which the loader did something else."""


class _Whole(Tensor):
    """A checkpoint's tensor without memory, or a view of one, or what was computed of some."""

    names: frozenset[str] = frozenset()
    """Checkpoint tensors of which it is made."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is Tensor.copy_ and isinstance(args[1], _Whole):
            _recorder.note(args[0], args[1])
            return args[0]
        if function is Tensor.__setitem__ and isinstance(args[2], _Whole):
            _recorder.note(args[0][args[1]], args[2])
            return None
        if function in _STAY and not _changes_dtype(args, kwargs):
            return args[0]  # a move to the device is the transfer itself
        result = super().__torch_function__(function, types, args, kwargs or {})
        _inherit(result, _names_in([args, kwargs]))
        return result


_STAY = (Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.contiguous, Tensor.detach)


class _Recorder:
    """Notes of the copies into one model; one recording runs at a time in a process."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.copies: list[Copy] = []
        self.unmapped: dict[str, str] = {}
        self.roots: dict[int, tuple[str, Tensor]] = {}
        self.tensors = tensors_of(model)
        self.homes = {t.untyped_storage().data_ptr(): name for name, t in self.tensors.items()}
        # Some loaders copy in several threads.
        self.lock = threading.Lock()

    def whole(self, name: str, dtype: str, shape: Sequence[int]) -> Tensor:
        root = torch.empty(list(shape), dtype=getattr(torch, dtype), device="meta")
        whole = root.as_subclass(_Whole)
        whole.names = frozenset([name])
        self.roots[whole.untyped_storage()._cdata] = (name, whole)
        return whole

    def note(self, target: Tensor, source: "_Whole") -> None:
        with self.lock:
            reason = self._note(target, source)
            if reason is not None:
                self.unmapped |= dict.fromkeys(source.names, reason)

    def _note(self, target: Tensor, source: "_Whole") -> str | None:
        """Note a copy; return why it cannot be done by copying a part of one tensor."""
        if not source.numel():
            return None
        root = self.roots.get(source.untyped_storage()._cdata)
        if root is None:
            return "the loader computes with it"
        home = self.homes.get(target.untyped_storage().data_ptr())
        if home is None:
            return "the loader copies it to where no parameter is"
        if target.shape != source.shape:
            if target.numel() != source.numel():
                return "the loader spreads it over a larger part"
            target = target.view(source.shape)
        parameter = self.tensors[home]
        self.copies.append(
            Copy(
                root[0],
                int(source.storage_offset()),
                list(source.shape),
                list(source.stride()),
                home,
                int(target.storage_offset() - parameter.storage_offset()),
                list(target.stride()),
                str(parameter.dtype).removeprefix("torch."),
            )
        )
        return None


_recorder: _Recorder


@torch.no_grad()
def record(model: torch.nn.Module, tensors: Sequence[tuple[str, str, Sequence[int]]]) -> Recording:
    """Return what ``model.load_weights`` does with tensors of (name, dtype, shape).

    Parameters are as before, but that a loader may zero the padding of its own.
    """
    global _recorder
    recorder = _recorder = _Recorder(model)
    before = dict(model.named_parameters())
    data = {name: parameter.data for name, parameter in before.items()}
    try:
        _loader_of(model)([(n, recorder.whole(n, d, s)) for n, d, s in tensors])
    except Exception:
        # One of them has stopped the loader: find out which.
        recorder = _recorder = _Recorder(model)
        for name, dtype, shape in tensors:
            _record_alone(recorder, name, dtype, shape)
    finally:
        _put_back(model, before, data, recorder)
    kept = [copy for copy in recorder.copies if copy.tensor not in recorder.unmapped]
    return Recording(copies=kept, unmapped=recorder.unmapped)


def _record_alone(recorder: _Recorder, name: str, dtype: str, shape: Sequence[int]) -> None:
    try:
        _loader_of(recorder.model)([(name, recorder.whole(name, dtype, shape))])
    except Exception as error:
        recorder.unmapped[name] = f"{type(error).__name__}: {error}"[:200]


def _put_back(
    model: torch.nn.Module,
    parameters: dict[str, torch.nn.Parameter],
    data: dict[str, Tensor],
    recorder: _Recorder,
) -> None:
    """Undo what a loader did by replacing a parameter, or its memory, instead of copying."""
    now = dict(model.named_parameters())
    for name, parameter in parameters.items():
        found = now.get(name)
        if found is parameter and found.data_ptr() == data[name].data_ptr():
            continue
        names = found.names if isinstance(found, _Whole) else frozenset[str]()
        if found is not None and isinstance(found.data, _Whole):
            names |= found.data.names
        recorder.unmapped |= dict.fromkeys(names, "the loader replaces the parameter by it")
        module, _, last = name.rpartition(".")
        parameter.data = data[name]
        setattr(model.get_submodule(module), last, parameter)


def _loader_of(model: torch.nn.Module) -> Any:
    """Return ``load_weights``, which SGLang gives to all of its models."""
    return model.load_weights


def _changes_dtype(args: Any, kwargs: Any) -> bool:
    wanted = [*args[1:], *(kwargs or {}).values()]
    return any(isinstance(value, torch.dtype) and value != args[0].dtype for value in wanted)


def _names_in(values: Any) -> frozenset[str]:
    """Return the checkpoint tensors behind the arguments of a function."""
    if isinstance(values, _Whole):
        return values.names
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list | tuple):
        return frozenset().union(*(_names_in(value) for value in values))
    return frozenset()


def _inherit(result: Any, names: frozenset[str]) -> None:
    if isinstance(result, _Whole):
        result.names = names
    elif isinstance(result, list | tuple):
        for part in result:
            _inherit(part, names)
