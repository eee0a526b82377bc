"""Formula trees, and the errors of reading or evaluating a formula."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple


class Unreadable(Exception):
    """The text is no answer of the language that is read here.

    The message is a predicate about the text, such as "has two numbers side by side".
    """


class TooLarge(Exception):
    """An exact result would have numbers or sums beyond the limits."""


class Undefined(Exception):
    """The formula has no value, such as a division by zero."""


class Node(NamedTuple):
    """An operation and its arguments.

    ``number`` holds a Fraction and ``symbol`` a name; the constants ``pi``, ``e``, ``i`` and
    ``infinity`` hold nothing; other operations hold nodes, ``function`` its name before them.
    """

    op: str
    args: tuple[Any, ...] = ()


PI, E, IMAGINARY, INFINITY = Node("pi"), Node("e"), Node("i"), Node("infinity")
MINUS_INFINITY = Node("negative", (INFINITY,))
CLOSING = {"(": ")", "[": "]", "{": "}", "(|": "|)", "lfloor": "rfloor", "lceil": "rceil"}
"""Closing brackets by their opening ones."""


def number(value: int | Fraction) -> Node:
    """Return the node of a rational number."""
    return Node("number", (Fraction(value),))


def symbol(name: str) -> Node:
    """Return the node of a variable."""
    return Node("symbol", (name,))


ZERO, ONE = number(0), number(1)


def product(factors: Sequence[Node]) -> Node:
    """Return the node of a product, one factor as it is."""
    return factors[0] if len(factors) == 1 else Node("multiply", tuple(factors))


def minus(left: Node, right: Node) -> Node:
    """Return the node of a difference."""
    return Node("add", (left, Node("negative", (right,))))


def symbols_of(node: Node) -> set[str]:
    """Return the names of the variables a formula has, bound ones included."""
    found: set[str] = set()
    pending = [node]
    while pending:
        item = pending.pop()
        if item.op == "symbol":
            found.add(item.args[0])
        else:
            pending.extend(arg for arg in item.args if isinstance(arg, Node))
    return found


def has_op(node: Node, ops: frozenset[str]) -> bool:
    """Return whether one of ``ops`` occurs in the formula."""
    pending = [node]
    while pending:
        item = pending.pop()
        if item.op in ops:
            return True
        pending.extend(arg for arg in item.args if isinstance(arg, Node))
    return False


def replace(node: Node, old: Node, new: Node) -> Node:
    """Return the formula with every occurrence of a part replaced."""
    if node == old:
        return new
    if not any(isinstance(arg, Node) for arg in node.args):
        return node
    args = tuple(replace(arg, old, new) if isinstance(arg, Node) else arg for arg in node.args)
    return Node(node.op, args)


def count_nodes(node: Node) -> int:
    """Return how many operations, numbers and names a formula has."""
    return 1 + sum(count_nodes(arg) for arg in node.args if isinstance(arg, Node))


def is_deeper(node: Node, limit: int) -> bool:
    """Return whether operations nest more than ``limit`` deep."""
    pending = [(node, 1)]
    while pending:
        item, depth = pending.pop()
        if depth > limit:
            return True
        pending.extend((arg, depth + 1) for arg in item.args if isinstance(arg, Node))
    return False
