"""Lazy sequence: items are made when asked for, and few are kept."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np

T = TypeVar("T")

_KEPT = 4096


class LazySequence(Sequence[T]):
    """Items ``make(number)`` for each of ``numbers``; a slice is lazy as well."""

    def __init__(self, make: Callable[[int], T], numbers_N: np.ndarray) -> None:
        """Keep the function and [N] its arguments, int64."""
        self._make = make
        self._numbers_N = numbers_N
        # A group asks for its problem once for every completion.
        self._made = functools.lru_cache(maxsize=_KEPT)(make)

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._numbers_N)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> "LazySequence[T]": ...
    def __getitem__(self, place: Any) -> Any:
        """Return an item, or the items of a slice."""
        if isinstance(place, slice):
            return LazySequence(self._make, self._numbers_N[place])
        return self._made(int(self._numbers_N[place]))

    def __iter__(self) -> Iterator[T]:
        """Yield the items, of which none is kept."""
        for number in self._numbers_N.tolist():
            yield self._make(number)

    def at(self, places: Sequence[int]) -> "LazySequence[T]":
        """Return the items at some places, in their order."""
        return LazySequence(self._make, self._numbers_N[np.asarray(places, dtype=np.int64)])


class JoinedSequence(Sequence[T]):
    """Items of two sequences, one after the other."""

    def __init__(self, first: Sequence[T], second: Sequence[T]) -> None:
        self._first = first
        self._second = second

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self._first) + len(self._second)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[T]: ...
    def __getitem__(self, place: Any) -> Any:
        """Return an item, or the items of a slice."""
        if isinstance(place, slice):
            return [self[number] for number in range(*place.indices(len(self)))]
        number = range(len(self))[place]
        first = len(self._first)
        return self._first[number] if number < first else self._second[number - first]
