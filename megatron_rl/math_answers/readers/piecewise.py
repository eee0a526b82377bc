r"""Piecewise functions: ``\begin{cases} x & x \ge 0 \\ -x & x < 0 \end{cases}``."""

from collections.abc import Callable, Sequence
from functools import reduce

from megatron_rl.math_answers.kinds.inequalities import as_real_set
from megatron_rl.math_answers.kinds.real_sets import complement, is_surely_empty, union
from megatron_rl.math_answers.kinds.records import Answer, Piecewise, RealSet, Words
from megatron_rl.math_answers.text import word_tables
from megatron_rl.math_answers.text.brackets import is_op, split, strip_group, strip_punctuation
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.tree import TooLarge, Undefined, Unreadable

AreSame = Callable[[Answer, Answer], bool]
_RELATIONS = ("=", "<", ">", "<=", ">=", "!=", "equiv", "approx")
_OTHERWISE = Words(text="otherwise")


def is_piecewise(rows: Sequence[Sequence[Token]]) -> bool:
    """Return whether rows are values with conditions, not equations aligned at their signs."""
    return any(len(cells) == 2 and not _is_aligned(*cells) for cells in map(_cells_of, rows))


def read_piecewise(
    rows: Sequence[Sequence[Token]], read: Callable[[Sequence[Token]], Answer]
) -> Piecewise:
    """Return the values and the conditions of all rows.

    Raises:
        Unreadable: a row has no condition, or one that means nothing.
    """
    pieces = []
    for row in rows:
        cells = _cells_of(row)
        if len(cells) != 2 or not all(cells):
            raise Unreadable("has a case without a value or a condition")
        pieces.append((read(cells[0]), _read_condition(cells[1], read)))
    return Piecewise(pieces=tuple(pieces))


def are_same_piecewise(gold: Piecewise, answer: Piecewise, are_same: AreSame) -> bool:
    """Return whether each piece of one is a piece of the other, in any order."""
    wanted, found = _resolved(gold), _resolved(answer)
    if len(wanted) != len(found):
        return False
    for value, condition in wanted:
        match = next(
            (p for p in found if are_same(condition, p[1]) and are_same(value, p[0])), None
        )
        if match is None:
            return False
        found.remove(match)
    return True


def _cells_of(row: Sequence[Token]) -> list[Sequence[Token]]:
    return split(row, frozenset({"&"}))[0]


def _is_aligned(left: Sequence[Token], right: Sequence[Token]) -> bool:
    if not left or not right:
        return True
    return is_op(left[-1], *_RELATIONS) or is_op(right[0], *_RELATIONS)


def _read_condition(tokens: Sequence[Token], read: Callable[[Sequence[Token]], Answer]) -> Answer:
    tokens = strip_group(strip_punctuation(tokens))
    while tokens and tokens[0].kind in {"word", "text"} and _word(tokens[0]) in word_tables.IF:
        tokens = tokens[1:]
    if not tokens:
        raise Unreadable("has a case without a condition")
    if all(token.kind in {"word", "text"} for token in tokens):
        phrase = " ".join(map(_word, tokens))
        if phrase in word_tables.OTHERWISE:
            return _OTHERWISE
    if any(token.kind in {"word", "text"} for token in tokens):
        words = " ".join(_word(token) for token in tokens).split()
        return Words(
            text=" ".join(word for word in words if word not in word_tables.IS | word_tables.IF)
        )
    condition = read(tokens)
    found = as_real_set(condition)
    return condition if found is None else found


def _word(token: Token) -> str:
    return token.text.casefold().strip(" .,;")


def _resolved(function: Piecewise) -> list[tuple[Answer, Answer]]:
    """Return the pieces on nonempty sets, with the complement of the others for "otherwise"."""
    conditions = [condition for _, condition in function.pieces if condition != _OTHERWISE]
    sets = [each for each in conditions if isinstance(each, RealSet)]
    rest: Answer = _OTHERWISE
    if sets and len(sets) == len(conditions):
        try:
            everywhere = reduce(union, sets)
            rest = RealSet(pieces=complement(everywhere).pieces, variable=everywhere.variable)
        except (Unreadable, TooLarge, Undefined):  # ends without an order
            rest = _OTHERWISE
    resolved = [
        (value, rest if condition == _OTHERWISE else condition)
        for value, condition in function.pieces
    ]
    return [
        piece
        for piece in resolved
        if not (isinstance(piece[1], RealSet) and is_surely_empty(piece[1]))
    ]
