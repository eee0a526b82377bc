"""Pieces of a text: the marks of its thoughts, and what stands between them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A mark, or text without any."""

    text: str
    is_mark: bool


def mark(text: str) -> Piece:
    """Return a mark."""
    return Piece(text=text, is_mark=True)


def split_text(text: str, marks: Sequence[str]) -> list[Piece]:
    """Return the pieces of ``text`` in their order, none of them empty."""
    if not marks:
        return [Piece(text=text, is_mark=False)] if text else []
    parts = re.split(f"({'|'.join(map(re.escape, marks))})", text)
    return [Piece(text=part, is_mark=i % 2 == 1) for i, part in enumerate(parts) if part]


def join(pieces: Iterable[Piece]) -> str:
    """Return the text of the pieces."""
    return "".join(piece.text for piece in pieces)
