"""Matrices, vectors and systems of equations in LaTeX environments."""

from collections.abc import Callable, Sequence

from megatron_rl.math_answers.kinds.records import Answer, Matrix, Quantity
from megatron_rl.math_answers.readers.piecewise import is_piecewise, read_piecewise
from megatron_rl.math_answers.text.brackets import is_op, split
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.tree import ONE, Node, Unreadable, number

Read = Callable[[Sequence[Token]], Answer]
ReadList = Callable[[list[Sequence[Token]]], Answer]

_MAX_DETERMINANT = 4


def read_environment(tokens: Sequence[Token], *, read: Read, read_list: ReadList) -> Answer | None:
    """Return a matrix or a system of equations, None where the environment is part of a formula.

    Raises:
        Unreadable: it is malformed, or another environment.
    """
    start = next(i for i, token in enumerate(tokens) if is_op(token, "begin"))
    ends = [i for i, token in enumerate(tokens) if is_op(token, "end")]
    if len(ends) != 1:
        return None
    end, name = ends[0], tokens[start + 1].text
    body = list(tokens[start + 2 : end])
    if name == "array" and body and is_op(body[0], "{"):
        close = next((i for i, token in enumerate(body) if is_op(token, "}")), None)
        if close is None:
            raise Unreadable("has an array without columns")
        body = body[close + 1 :]
    rows, _ = split(body, frozenset({"row"}))
    rows = [row for row in rows if row]
    before, after = list(tokens[:start]), list(tokens[end + 2 :])
    if before and after and is_op(before[-1], "(", "[") and is_op(after[0], ")", "]"):
        before, after = before[:-1], after[1:]
    if _is_determinant(name, before, after):
        name, before, after = "vmatrix", before[:-1], after[1:]
    if after:
        return None
    if name == "array" and before and is_op(before[-1], "{s"):
        name, before = "cases", before[:-1]  # an array behind one brace
    if name == "cases" and not before and is_piecewise(rows):
        return read_piecewise(rows, read)
    if name in {"cases", "aligned", "align", "gathered"}:
        parts = [[t for t in row if not is_op(t, "&")] for row in rows]
        return None if before else read_list(list(parts))
    if any(is_op(token, "=") for token in before):
        return None
    if not name.endswith("matrix") and name != "array":
        raise Unreadable(f"has an unknown environment, {name}")
    if name == "Vmatrix":
        raise Unreadable("is a norm")
    cells = [tuple(read(c) for c in split(row, frozenset({"&"}))[0]) for row in rows]
    if not cells or len({len(row) for row in cells}) != 1:
        raise Unreadable("has rows of different lengths")
    matrix = Matrix(rows=tuple(cells))
    if name == "vmatrix":
        matrix = Matrix(rows=((_determinant(matrix),),))
    scaled = _scaled(before, matrix, read) if before else matrix
    return scaled.rows[0][0] if name == "vmatrix" else scaled


def _scaled(factor: Sequence[Token], matrix: Matrix, read: Read) -> Matrix:
    if factor and is_op(factor[-1], "*"):
        factor = factor[:-1]
    scalar: Answer = (
        Quantity(formula=number(-1)) if len(factor) == 1 and is_op(factor[0], "-") else read(factor)
    )
    cells = [cell for row in matrix.rows for cell in row]
    if not isinstance(scalar, Quantity) or not all(isinstance(cell, Quantity) for cell in cells):
        raise Unreadable("has a factor before a matrix that is no number")

    def times(cell: Answer) -> Quantity:
        assert isinstance(cell, Quantity) and isinstance(scalar, Quantity), "checked above"
        return Quantity(formula=Node("multiply", (scalar.formula, cell.formula)))

    return Matrix(rows=tuple(tuple(times(cell) for cell in row) for row in matrix.rows))


def _is_determinant(name: str, before: Sequence[Token], after: Sequence[Token]) -> bool:
    r"""Return whether bars surround a matrix, or ``\det`` comes before it."""
    if not before or not (name.endswith("matrix") or name == "array"):
        return False
    if not after:
        return (before[-1].kind, before[-1].text) == ("function", "det")
    has_own_brackets = name not in {"matrix", "array"}
    return not has_own_brackets and is_op(before[-1], "|", "(|") and is_op(after[0], "|", "|)")


def _determinant(matrix: Matrix) -> Quantity:
    """Return the determinant as a formula, by expansion along the first row."""
    size = len(matrix.rows)
    cells = [cell for row in matrix.rows for cell in row]
    formulas = [cell.formula for cell in cells if isinstance(cell, Quantity) and not cell.unit]
    if len(cells) != size * size or len(formulas) != len(cells) or size > _MAX_DETERMINANT:
        raise Unreadable("is a determinant that is not square, is too large or has no formulas")
    return Quantity(
        formula=_expanded([formulas[i : i + size] for i in range(0, size * size, size)])
    )


def _expanded(rows: Sequence[Sequence[Node]]) -> Node:
    if not rows:
        return ONE
    terms = []
    for column, factor in enumerate(rows[0]):
        minor = _expanded([[*row[:column], *row[column + 1 :]] for row in rows[1:]])
        term = Node("multiply", (factor, minor))
        terms.append(Node("negative", (term,)) if column % 2 else term)
    return Node("add", tuple(terms))
