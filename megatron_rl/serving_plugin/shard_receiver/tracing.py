"""Tensors without memory that trace what a model's loader does with them.

Views of a checkpoint's tensor know which part of it they are, and a copy of one into a parameter is
noted instead of done. Whatever else a loader does marks the tensors that it does so with: these are
not mapped. In doubt a tensor is marked, which costs time; one that is left out costs the model.
"""

import collections
import gc
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .regions import dtype_named, extent_of


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


class LostError(Exception):
    """A loader copies a tensor to where no parameter is, and would go on with what lies there."""


class Whole(Tensor):
    """A checkpoint's tensor without memory, or a view of one, or what was computed of some."""

    owner: "Trace"
    lineage: frozenset[str] = frozenset()
    """Checkpoint tensors of which it is made."""

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        wholes = list(_of_kind(Whole, [args, kwargs]))
        trace = wholes[0].owner
        if function is Tensor.copy_ and len(args) > 1 and isinstance(args[1], Whole):
            trace.note(args[0], args[1])
            return args[0]
        if function is Tensor.__setitem__ and isinstance(args[2], Whole):
            trace.note(args[0][args[1]], args[2], drops_ones=True)
            return None
        if function is Tensor.__iter__:
            return iter(args[0].unbind(0))  # torch's own iterator yields plain tensors
        if function in _STAY and not _changes_dtype(args, kwargs):
            return args[0]  # a move to the device is the transfer itself
        if function is Tensor.zero_ and trace.clear(args[0]):
            return args[0]
        versions = _versions(wholes)
        try:
            result = super().__torch_function__(function, types, args, kwargs)
        except Exception as error:
            trace.mark(wholes, f"{type(error).__name__}: {error}"[:200])
            raise
        reals = [t for t in _of_kind(Tensor, [args, kwargs]) if not isinstance(t, Whole)]
        is_in_place = versions != _versions(wholes)
        trace.follow(_name_of(function), wholes, reals, result, is_in_place=is_in_place)
        return result


_STAY = (Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.contiguous, Tensor.detach)
_PLAIN = (bool, int, float, str, torch.dtype, torch.device, torch.layout)


class Trace:
    """What one call of a model's loader does with tensors of a checkpoint."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.copies: list[Copy] = []
        self.unmapped: dict[str, str] = {}
        """Reason by name."""
        self.last = ""
        """Tensor that the loader took last."""
        self.waiting: frozenset[str] = frozenset()
        """Tensors that the loader still held when it had taken the last."""
        self._tensors = tensors
        self._homes: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            if tensor.numel() and not tensor.is_meta:
                self._homes.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
        self._roots: dict[int, tuple[str, Tensor]] = {}
        self._made: list[tuple[weakref.ref[Whole], frozenset[str]]] = []
        self._spoiled: set[str] = set()
        self._cleared: set[str] = set()
        self._zeros: list[tuple[str, str, Tensor]] = []
        """Tensor, parameter, and part of it that a loader fills with zeros."""
        # Some loaders copy in several threads.
        self._lock = threading.RLock()

    def wholes(self, tensors: Sequence[tuple[str, str, Sequence[int]]]) -> Iterator[Any]:
        """Yield (name, tensor) of each (name, dtype, shape)."""
        for name, dtype, shape in tensors:
            self.last = name
            yield name, self._whole(name, dtype, shape)
        self.waiting = self._alive() - {self.last}

    def _whole(self, name: str, dtype: str, shape: Sequence[int]) -> Whole:
        with torch.inference_mode(False):  # for its counter of changes
            root = torch.empty(list(shape), dtype=dtype_named(dtype), device="meta")
            whole = root.as_subclass(Whole)
        # Kept until the end, since the address of what is gone may be another's.
        self._roots[root.untyped_storage()._cdata] = (name, root)
        self._adopt(whole, frozenset([name]))
        return whole

    def clear(self, whole: Whole) -> bool:
        """Take all of a tensor for zeros from now on; return False for a part of one.

        What a loader copies of them is a number of its own, as padding is: nobody has to send it.
        """
        with self._lock, torch._C.DisableTorchFunctionSubclass():
            root = self._root(whole)
            if root is None or whole.numel() != root[1].numel():
                return False
            self._cleared.add(root[0])
            return True

    def note(self, target: Tensor, source: Whole, *, drops_ones: bool = False) -> None:
        """Note a copy, or mark what cannot be done by copying a part of one tensor.

        Raises:
            LostError: the target is memory that is no parameter.
            RuntimeError: the shapes do not fit.
        """
        with self._lock, torch._C.DisableTorchFunctionSubclass():
            home = self._home(target)
            if home is None and not target.is_meta and source.numel():
                self.mark([source], "the loader copies it to where no parameter is")
                raise LostError(self.unmapped[next(iter(source.lineage))])
            try:
                reason = self._note(target, source, home, drops_ones)
            except RuntimeError as error:
                self.mark([source], f"{type(error).__name__}: {error}"[:200])
                raise
            if reason is not None:
                self.mark([source], reason)

    def _note(
        self, target: Tensor, source: Tensor, home: str | None, drops_ones: bool
    ) -> str | None:
        while drops_ones and source.dim() > target.dim() and source.shape[0] == 1:
            source = source[0]
        fitted = source.expand(target.shape)
        if not fitted.numel():
            return None
        root = self._root(source)
        if root is None:
            return "the loader computes with it"
        if home is None:
            return "the loader copies it to where no parameter is"
        parameter = self._tensors[home]
        if source.dtype != root[1].dtype:
            return f"the loader takes it for {source.dtype}"
        if target.dtype != parameter.dtype:
            return f"the loader takes its parameter for {target.dtype}"
        if any(n > 1 and s == 0 for n, s in zip(fitted.shape, fitted.stride(), strict=True)):
            return "the loader spreads it over a larger part"
        if root[0] in self._cleared:
            self._zeros.append((root[0], home, target))
            return None
        self.copies.append(
            Copy(
                root[0],
                int(fitted.storage_offset()),
                list(fitted.shape),
                list(fitted.stride()),
                home,
                int(target.storage_offset() - parameter.storage_offset()),
                list(target.stride()),
                str(parameter.dtype).removeprefix("torch."),
            )
        )
        return None

    def follow(
        self,
        function: str,
        wholes: Sequence[Whole],
        reals: Sequence[Tensor],
        result: Any,
        *,
        is_in_place: bool,
    ) -> None:
        """Let the results of a function know what they are; mark what is computed with."""
        with self._lock, torch._C.DisableTorchFunctionSubclass():
            are_views = True
            for tensor in _of_kind(Tensor, result):
                root = self._root(tensor)
                are_views &= root is not None
                if isinstance(tensor, Whole):
                    names = _lineage(wholes) if root is None else frozenset([root[0]])
                    self._adopt(tensor, names)
            is_getter = function.endswith("__get__") and result is None
            if are_views and not is_in_place and (is_getter or _is_plain(result)):
                return
            self.mark(wholes, f"the loader computes with it, by {function}")
            # The parameter that it computes with, or in, is not what copies alone would make it.
            self._spoiled |= {home for t in reals if (home := self._home(t)) is not None}

    def mark(self, wholes: Sequence[Whole], reason: str) -> None:
        """Mark the tensors behind some as unmapped; the first reason stays."""
        self.mark_names(_lineage(wholes), reason)

    def mark_names(self, names: frozenset[str], reason: str) -> None:
        """Mark tensors as unmapped; the first reason stays."""
        with self._lock:
            for name in names:
                self.unmapped.setdefault(name, reason)

    def spoil(self, parameter: str) -> None:
        """Do not map what is copied to a parameter."""
        self._spoiled.add(parameter)

    def finish(self) -> None:
        """Mark what only the end shows, when whoever does not keep a tensor has let go of it."""
        if self._alive():
            gc.collect()  # what only a circle of references holds is not kept
        self.mark_names(self._alive(), "the loader keeps it")
        counts: collections.Counter[str] = collections.Counter()
        for _, home, target in self._zeros:
            counts[home] += target.numel()
        for copy in self.copies:
            counts[copy.parameter] += torch.Size(copy.shape).numel()
        for copy in self.copies:
            name = frozenset([copy.tensor])
            if copy.parameter in self._spoiled:
                self.mark_names(name, "the loader changes its parameter otherwise as well")
            if counts[copy.parameter] > self._tensors[copy.parameter].numel():
                self.mark_names(name, "the loader copies several to one place")
        for tensor, _, target in self._zeros:
            if tensor not in self.unmapped:
                target.zero_()

    def _alive(self) -> frozenset[str]:
        return frozenset().union(*(names for ref, names in self._made if ref() is not None))

    def _adopt(self, whole: Whole, names: frozenset[str]) -> None:
        whole.owner, whole.lineage = self, names
        self._made.append((weakref.ref(whole), names))

    def _root(self, tensor: Tensor) -> tuple[str, Tensor] | None:
        return self._roots.get(tensor.untyped_storage()._cdata)

    def _home(self, tensor: Tensor) -> str | None:
        """Return the parameter in whose memory all of a tensor lies."""
        if tensor.is_meta or tensor.layout is not torch.strided or not tensor.numel():
            return None
        first, end = _bytes_of(tensor)
        for name in self._homes.get(tensor.untyped_storage().data_ptr(), ()):
            home_first, home_end = _bytes_of(self._tensors[name])
            if home_first <= first and end <= home_end:
                return name
        return None


def _bytes_of(tensor: Tensor) -> tuple[int, int]:
    """Return where a tensor begins and ends in its storage."""
    first = int(tensor.storage_offset())
    return first * tensor.itemsize, (first + extent_of(tensor)) * tensor.itemsize


def _versions(wholes: Sequence[Whole]) -> list[int]:
    """Return how often each was changed in place; those computed of others are marked anyway."""
    with torch._C.DisableTorchFunctionSubclass():
        return [0 if whole.is_inference() else whole._version for whole in wholes]


def _lineage(wholes: Sequence[Whole]) -> frozenset[str]:
    return frozenset().union(*(whole.lineage for whole in wholes))


def _changes_dtype(args: Any, kwargs: Mapping[str, Any]) -> bool:
    for value in [*args[1:], *kwargs.values()]:
        wanted = value.dtype if isinstance(value, Tensor) else value
        if isinstance(wanted, torch.dtype) and wanted != args[0].dtype:
            return True
    return False


def _of_kind(kind: Any, values: Any) -> Iterator[Any]:
    """Yield the tensors of a kind among the arguments, or results, of a function."""
    if isinstance(values, kind):
        yield values
    elif isinstance(values, Mapping):
        yield from _of_kind(kind, list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _of_kind(kind, value)


def _is_plain(result: Any) -> bool:
    if isinstance(result, list | tuple):
        return all(map(_is_plain, result))
    return isinstance(result, (Tensor, *_PLAIN))


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    owner = getattr(function, "__self__", None)
    return f"{getattr(owner, '__name__', '')}.{name}".removeprefix(".")
