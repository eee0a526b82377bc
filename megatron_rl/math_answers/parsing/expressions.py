"""Formulas read from tokens: the Pratt parser with its prefix readers."""

from collections.abc import Mapping, Sequence

from megatron_rl.math_answers.parsing.big_operators import read_big_operator
from megatron_rl.math_answers.parsing.functions import read_function
from megatron_rl.math_answers.parsing.parser import MAX_DEPTH, Parser, PrefixReader
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.tree import Node, Unreadable, is_deeper

_PREFIXES: Mapping[str, PrefixReader] = {
    "function": read_function,
    "sum": read_big_operator,
    "prod": read_big_operator,
    "int": read_big_operator,
    "lim": read_big_operator,
}


def read_expression(tokens: Sequence[Token], *, log_base: Node) -> Node:
    """Return the formula that all of ``tokens`` spell.

    Args:
        tokens: of one formula.
        log_base: of a logarithm that names no base.

    Raises:
        Unreadable: they spell none.
    """
    parser = Parser(tokens, log_base, _PREFIXES)
    node = parser.read_group()
    if parser.is_op("bmod"):
        parser.next()
        node = Node("modulo", (node, parser.read_sum()))
    if parser.peek().kind != "end":
        raise Unreadable(f"has an unexpected {parser.peek().text!r}")
    if is_deeper(node, MAX_DEPTH):  # a/b/c/d nests without brackets
        raise Unreadable("is nested too deeply")
    return node
