"""Equality of ordered answers: tuples, vectors, matrices."""

from collections.abc import Callable, Sequence

from megatron_rl.math_answers.kinds.records import Answer, Matrix, Ordered

AreSame = Callable[[Answer, Answer], bool]
"""Compares a part of the gold answer with a part of the answer, in this order."""


def are_same_orders(gold: Ordered, answer: Ordered, are_same: AreSame) -> bool:
    """Return whether two tuples have the same items, and brackets that may mean the same."""
    brackets = {(gold.opening, gold.closing), (answer.opening, answer.closing)}
    if len(brackets) > 1 and len(gold.items) == 2 and brackets == {("(", ")"), ("[", "]")}:
        return False  # an open and a closed interval
    if len(brackets) > 1 and ("builder", "builder") in brackets:
        return False
    return are_pairwise_same(gold.items, answer.items, are_same)


def are_pairwise_same(gold: Sequence[Answer], answer: Sequence[Answer], are_same: AreSame) -> bool:
    """Return whether there are equally many items, each the same as its counterpart."""
    return len(gold) == len(answer) and all(map(are_same, gold, answer))


def are_same_matrices(gold: Matrix, answer: Matrix, are_same: AreSame) -> bool:
    """Return whether two matrices have the same shape and entries."""
    return len(gold.rows) == len(answer.rows) and all(
        are_pairwise_same(*rows, are_same) for rows in zip(gold.rows, answer.rows, strict=True)
    )


def is_same_vector(
    matrix: Matrix, vector: Ordered, are_same: AreSame, *, is_gold_first: bool
) -> bool:
    """Return whether a row or column is the tuple, or the rows are the tuple's tuples."""
    if len(matrix.rows) == 1:
        entries = matrix.rows[0]
    elif len(matrix.rows[0]) == 1:
        entries = tuple(row[0] for row in matrix.rows)
    else:
        entries = tuple(Ordered(items=row) for row in matrix.rows)
    inner = [item for item in vector.items if isinstance(item, Ordered)]
    if inner and len(inner) == len(vector.items):
        shape = inner[0].opening, inner[0].closing
        entries = tuple(Ordered(items=r, opening=shape[0], closing=shape[1]) for r in matrix.rows)
    pair = (entries, vector.items) if is_gold_first else (vector.items, entries)
    return are_pairwise_same(*pair, are_same)
