"""Real sets as unions of intervals with exact ends, and their algebra."""

from functools import cmp_to_key

from megatron_rl.math_answers.algebra.numeric import compare_reals
from megatron_rl.math_answers.algebra.same_formula import are_same_formula
from megatron_rl.math_answers.kinds.records import Piece, RealSet
from megatron_rl.math_answers.tree import (
    INFINITY,
    MINUS_INFINITY,
    Node,
    TooLarge,
    Undefined,
    Unreadable,
)

ALL_REALS = RealSet(
    pieces=(Piece(low=MINUS_INFINITY, high=INFINITY, is_low_open=True, is_high_open=True),)
)
EMPTY = RealSet(pieces=())


def is_infinite(node: Node) -> bool:
    """Return whether a formula is plus or minus infinity."""
    return node in {INFINITY, MINUS_INFINITY}


def make_interval(low: Node, high: Node, is_low_open: bool, is_high_open: bool) -> RealSet:
    """Return one interval; infinite ends are open whatever was written."""
    return RealSet(
        pieces=(
            Piece(
                low=low,
                high=high,
                is_low_open=is_low_open or is_infinite(low),
                is_high_open=is_high_open or is_infinite(high),
            ),
        )
    )


def make_point(value: Node) -> RealSet:
    """Return the set of one number."""
    return make_interval(value, value, False, False)


def union(left: RealSet, right: RealSet) -> RealSet:
    """Return the union; pieces are joined by ``normalized``, where their ends have an order."""
    return RealSet(pieces=left.pieces + right.pieces, variable=left.variable or right.variable)


def normalized(found: RealSet) -> tuple[Piece, ...]:
    """Return the pieces in order; pieces that touch are joined, empty ones dropped.

    Raises:
        Unreadable: an end is no real constant, so that there is no order.
    """
    pieces = [piece for piece in found.pieces if not _is_empty(piece)]
    pieces.sort(key=cmp_to_key(_compare_lows))
    joined: list[Piece] = []
    for piece in pieces:
        if joined and _touch(joined[-1], piece):
            joined[-1] = _join(joined[-1], piece)
        else:
            joined.append(piece)
    return tuple(joined)


def complement(found: RealSet) -> RealSet:
    """Return the real numbers that are not in a set."""
    pieces: list[Piece] = []
    low, is_open = MINUS_INFINITY, True
    for piece in normalized(found):
        if piece.low != MINUS_INFINITY:
            pieces.append(
                Piece(
                    low=low,
                    high=piece.low,
                    is_low_open=is_open,
                    is_high_open=not piece.is_low_open,
                )
            )
        if piece.high == INFINITY:
            return RealSet(pieces=tuple(pieces), variable=found.variable)
        low, is_open = piece.high, not piece.is_high_open
    pieces.append(Piece(low=low, high=INFINITY, is_low_open=is_open, is_high_open=True))
    return RealSet(pieces=tuple(pieces), variable=found.variable)


def intersection(left: RealSet, right: RealSet) -> RealSet:
    """Return the intersection."""
    found = complement(union(complement(left), complement(right)))
    return RealSet(pieces=found.pieces, variable=left.variable or right.variable)


def are_same_set(left: RealSet, right: RealSet) -> bool:
    """Return whether two sets have the same elements; symbolic ends must agree one by one."""
    try:
        pairs = normalized(left), normalized(right)
    except (Unreadable, TooLarge, Undefined):
        pairs = left.pieces, right.pieces
    return len(pairs[0]) == len(pairs[1]) and all(map(_are_same_piece, *pairs))


def is_surely_empty(found: RealSet) -> bool:
    """Return whether a set has no elements; symbolic ends leave that open."""
    try:
        return not normalized(found)
    except (Unreadable, TooLarge, Undefined):
        return False


def _are_same_piece(left: Piece, right: Piece) -> bool:
    return (
        (left.is_low_open, left.is_high_open) == (right.is_low_open, right.is_high_open)
        and are_same_end(left.low, right.low)
        and are_same_end(left.high, right.high)
    )


def are_same_end(left: Node, right: Node) -> bool:
    """Return whether two ends of intervals, which may be infinite, are equal."""
    if is_infinite(left) or is_infinite(right):
        return left == right
    return are_same_formula(left, right)


def order(left: Node, right: Node) -> int:
    """Return -1, 0 or 1 as ``left`` is below, at or above ``right``.

    Raises:
        Unreadable: one is no real constant.
    """
    if left == right:
        return 0
    if left == MINUS_INFINITY or right == INFINITY:
        return -1
    if left == INFINITY or right == MINUS_INFINITY:
        return 1
    if are_same_formula(left, right):
        return 0
    return compare_reals(left, right)


def _is_empty(piece: Piece) -> bool:
    position = order(piece.low, piece.high)
    return position > 0 or (position == 0 and (piece.is_low_open or piece.is_high_open))


def _compare_lows(left: Piece, right: Piece) -> int:
    return order(left.low, right.low) or left.is_low_open - right.is_low_open


def _touch(left: Piece, right: Piece) -> bool:
    position = order(left.high, right.low)
    return position > 0 or (position == 0 and not (left.is_high_open and right.is_low_open))


def _join(left: Piece, right: Piece) -> Piece:
    position = order(left.high, right.high)
    last = left if position > 0 else right
    is_open = last.is_high_open if position else left.is_high_open and right.is_high_open
    return Piece(low=left.low, high=last.high, is_low_open=left.is_low_open, is_high_open=is_open)
