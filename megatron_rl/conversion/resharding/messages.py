"""Messages of one server rank: its pieces, packed so that few are small and none is large."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from megatron_rl.conversion.resharding.plan import Piece

_ALIGNMENT = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class DType:
    """Type of a tensor as it travels."""

    name: str
    itemsize: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """What one learner rank sends to one server rank at once."""

    source: int
    is_direct: bool
    """One piece that the server receives where it belongs; others share a buffer."""
    pieces: tuple[Piece, ...]
    num_bytes: int


def pack_messages(
    pieces: Sequence[Piece],
    dtypes: Mapping[str, DType],
    *,
    direct_bytes: int,
    bucket_bytes: int,
) -> list[Message]:
    """Return the messages in the order in which a server rank receives them.

    Sources take turns, so that the server hears from all of them at once.

    Args:
        pieces: of one server rank.
        dtypes: of each Hugging Face tensor as it travels.
        direct_bytes: a piece of at least so many bytes, of rows that lie together on the server in
            its own type, is a message of its own.
        bucket_bytes: most bytes of a message, as far as one row allows.
    """
    by_source: dict[int, list[Piece]] = {}
    for piece in pieces:
        by_source.setdefault(piece.source, []).append(piece)
    queues = {
        source: list(_pack(found, dtypes, direct_bytes, bucket_bytes))
        for source, found in sorted(by_source.items())
    }
    rounds = itertools.zip_longest(*queues.values())
    return [message for turn in rounds for message in turn if message is not None]


def messages_as_json(
    messages: Sequence[Message], dtypes: Mapping[str, DType], *, senders: Sequence[int]
) -> str:
    """Return what the server rank is told of its messages; sources are places in ``senders``."""
    place = {rank: index for index, rank in enumerate(senders)}
    rows = [
        [
            place[message.source],
            message.is_direct,
            [
                [
                    piece.to_parameter,
                    piece.to_offset,
                    piece.rows,
                    piece.cols,
                    piece.to_row_stride,
                    piece.to_col_stride,
                    dtypes[piece.tensor].name,
                ]
                for piece in message.pieces
            ],
        ]
        for message in messages
    ]
    return json.dumps(rows, separators=(",", ":"))


def passed_on(text: str) -> str:
    """Return what a server rank is told of the same messages when a sister passes them on."""
    return json.dumps([[0, *row[1:]] for row in json.loads(text)], separators=(",", ":"))


def _pack(
    pieces: Sequence[Piece],
    dtypes: Mapping[str, DType],
    direct_bytes: int,
    bucket_bytes: int,
) -> Iterator[Message]:
    packed: list[Piece] = []
    held = 0
    for piece in _cut(pieces, dtypes, bucket_bytes):
        size = piece.num_elements * dtypes[piece.tensor].itemsize
        if size >= direct_bytes and _lies_together(piece, dtypes[piece.tensor]):
            yield Message(source=piece.source, is_direct=True, pieces=(piece,), num_bytes=size)
            continue
        padded = -(-size // _ALIGNMENT) * _ALIGNMENT
        if packed and held + padded > bucket_bytes:
            yield _shared(packed, held)
            packed, held = [], 0
        packed.append(piece)
        held += padded
    if packed:
        yield _shared(packed, held)


def _shared(pieces: Sequence[Piece], num_bytes: int) -> Message:
    return Message(
        source=pieces[0].source, is_direct=False, pieces=tuple(pieces), num_bytes=num_bytes
    )


def _cut(
    pieces: Sequence[Piece], dtypes: Mapping[str, DType], bucket_bytes: int
) -> Iterator[Piece]:
    """Yield pieces of at most ``bucket_bytes``, by whole rows."""
    for piece in pieces:
        row_bytes = piece.cols * dtypes[piece.tensor].itemsize
        height = max(1, bucket_bytes // row_bytes)
        for row in range(0, piece.rows, height):
            yield replace(
                piece,
                rows=min(height, piece.rows - row),
                offset=piece.offset + row * piece.row_stride,
                to_offset=piece.to_offset + row * piece.to_row_stride,
            )


def _lies_together(piece: Piece, dtype: DType) -> bool:
    is_dense = piece.cols == 1 or piece.to_col_stride == 1
    is_row_major = piece.rows == 1 or piece.to_row_stride == piece.cols
    return is_dense and is_row_major and piece.to_dtype == dtype.name
