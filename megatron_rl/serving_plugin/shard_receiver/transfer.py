"""Transfer of shards from learner ranks into a model's parameters, message by message."""

import collections
import datetime
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .fingerprints import fingerprint
from .regions import (
    RefusedError,
    Region,
    check_region,
    dtype_of,
    is_in_place,
    num_bytes,
    padded,
    read_region,
    run_of,
    view_of,
)
from .sister import Sister


class Message(NamedTuple):
    """What one source sends at once."""

    source: int
    """Rank in the group."""
    is_direct: bool
    """One piece, received where it belongs; others share a buffer, each at a multiple of 16."""
    pieces: tuple[Region, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the message."""
        sizes = [num_bytes(piece) for piece in self.pieces]
        return sizes[0] if self.is_direct else sum(padded(size) for size in sizes)


def read_messages(values: Any, *, num_sources: int) -> tuple[Message, ...]:
    """Return the messages that JSON says, [source, is_direct, pieces] each, in order.

    Raises:
        RefusedError: anything else, or a source that is no learner rank of the group.
    """
    if not isinstance(values, list):
        raise RefusedError("messages are no list")
    return tuple(_read_message(value, num_sources) for value in values)


def _read_message(value: Any, num_sources: int) -> Message:
    if not isinstance(value, list) or len(value) != 3:
        raise RefusedError(f"not a message: {value!r:.100}")
    source, is_direct, pieces = value
    if type(source) is not int or not 0 <= source < num_sources or type(is_direct) is not bool:
        raise RefusedError(f"not a message: {value!r:.100}")
    if not isinstance(pieces, list) or not pieces or (is_direct and len(pieces) != 1):
        raise RefusedError(f"not a message: {value!r:.100}")
    return Message(source, is_direct, tuple(map(read_region, pieces)))


def check_messages(messages: Sequence[Message], tensors: Mapping[str, Tensor]) -> None:
    """Raise RefusedError unless every piece lies in its parameter, before anything is received."""
    counts: collections.Counter[str] = collections.Counter()
    for message in messages:
        for piece in message.pieces:
            check_region(piece, tensors)
            counts[piece.parameter] += piece.rows * piece.cols
        if message.is_direct and not is_in_place(message.pieces[0], tensors):
            raise RefusedError(f"{message.pieces[0].parameter}: cannot be received in place")
    for name, count in counts.items():
        # Which of two that meet is there in the end would depend on who sends faster.
        if count > tensors[name].numel():
            raise RefusedError(f"{name} has {tensors[name].numel()} elements, and {count} are sent")


@torch.no_grad()
def receive_messages(
    messages: Sequence[Message],
    tensors: Mapping[str, Tensor],
    group: Any,
    *,
    window: int,
    timeout_s: float,
    with_fingerprints: bool,
    sister: Sister | None = None,
) -> list[int]:
    """Receive every message in order; return their fingerprints, or an empty list.

    At most ``window`` messages are under way, and as many buffers are held; twice as many where
    messages are passed on to a sister, each as soon as it is there.

    Raises:
        RuntimeError: a source is gone, or silent for ``timeout_s``.
    """
    timeout = datetime.timedelta(seconds=timeout_s)
    under_way: collections.deque[tuple[int, Message, Tensor, Any]] = collections.deque()
    seen: list[int] = []

    def finish() -> None:
        number, message, arrived, work = under_way.popleft()
        work.wait(timeout)
        if sister is not None:
            sister.send(arrived, number)
        if with_fingerprints:
            seen.append(fingerprint(arrived))
        if not message.is_direct:
            _scatter(message, arrived, tensors)

    device = next(iter(tensors.values())).device
    buffers: list[Tensor | None] = [None] * (window if sister is None else 2 * window)
    for number, message in enumerate(messages):
        if len(under_way) == window:
            finish()
        if sister is not None:
            sister.settle(number - len(buffers))
        target = _target(message, tensors, buffers, number % len(buffers), device)
        # The number is the tag: messages of one source arrive in order, those of two in any.
        work = group.recv([target], message.source, number)
        under_way.append((number, message, target, work))
    while under_way:
        finish()
    if sister is not None:
        sister.settle(len(messages))
    return seen


def _target(
    message: Message,
    tensors: Mapping[str, Tensor],
    buffers: list[Tensor | None],
    slot: int,
    device: torch.device,
) -> Tensor:
    if message.is_direct:
        # As bytes: not every backend of torch's knows every type.
        return run_of(message.pieces[0], tensors).view(torch.uint8)
    size = message.num_bytes
    buffer = buffers[slot]
    if buffer is None or buffer.numel() < size:
        buffer = buffers[slot] = torch.empty(size, dtype=torch.uint8, device=device)
    return buffer[:size]


def _scatter(message: Message, arrived: Tensor, tensors: Mapping[str, Tensor]) -> None:
    start = 0
    for piece in message.pieces:
        size = num_bytes(piece)
        values = arrived[start : start + size].view(dtype_of(piece))
        view_of(piece, tensors).copy_(values.view(piece.rows, piece.cols))
        start += padded(size)
