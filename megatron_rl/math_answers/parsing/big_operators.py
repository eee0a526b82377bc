r"""Big operators, read into trees: ``\sum_{k=1}^{4} k``, ``\int_0^1 x\,dx``.

Short sums and products are written out; others keep a bound variable and are left to SymPy.
"""

from collections.abc import Sequence

from megatron_rl.math_answers.parsing.parser import Parser
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.tree import (
    CLOSING,
    IMAGINARY,
    Node,
    Unreadable,
    count_nodes,
    number,
    replace,
    symbol,
)

_MAX_NODES = 4_000
"""Of all terms of a sum or product that is written out."""
_CLOSERS = frozenset(CLOSING.values())
_OPERATIONS = {"sum": "add", "prod": "multiply"}


def read_big_operator(parser: Parser, name: str) -> Node:
    """Return the node of a sum, product, integral or limit, behind whose sign the parser stands.

    Raises:
        Unreadable: a bound or the variable is missing.
    """
    if name == "int":
        return _read_integral(parser)
    parser.expect("_")
    parser.expect("{")
    variable = _read_variable(parser)
    parser.expect("to" if name == "lim" else "=")
    low = parser.read_sum()
    parser.expect("}")
    if name == "lim":
        return Node("limit", (*_bind(parser.read_product(), variable), low))
    parser.expect("^")
    high = parser.read_atom()
    body = parser.read_product()
    return _write_out(name, body, variable, low, high)


def _read_variable(parser: Parser) -> Node:
    token = parser.next()
    if token.kind != "symbol":
        raise Unreadable("has a big operator without a variable")
    return IMAGINARY if token.text == "i" else symbol(token.text)


def _bind(body: Node, variable: Node) -> tuple[Node, Node]:
    """Rename the variable to one that no answer can name."""
    bound = Node("bound", (variable.args[0] if variable.args else "i",))
    return replace(body, variable, bound), bound


def _write_out(name: str, body: Node, variable: Node, low: Node, high: Node) -> Node:
    if low.op == high.op == "number":
        first, last = low.args[0], high.args[0]
        size = (last - first) * count_nodes(body)
        if first.denominator == last.denominator == 1 and size < _MAX_NODES:
            terms = [replace(body, variable, number(k)) for k in range(int(first), int(last) + 1)]
            if terms:
                return Node(_OPERATIONS[name], tuple(terms))
    return Node("sum" if name == "sum" else "product", (*_bind(body, variable), low, high))


def _read_integral(parser: Parser) -> Node:
    parser.expect("_")
    low = parser.read_atom() if not parser.is_op("-") else parser.read_exponent()
    parser.expect("^")
    high = parser.read_exponent()
    parser.rewrite(_with_differential)
    body = number(1) if parser.is_op("differential") else parser.read_sum()
    parser.expect("differential")
    return Node("integral", (*_bind(body, _read_variable(parser)), low, high))


def _with_differential(tokens: Sequence[Token], start: int) -> Sequence[Token]:
    """Return the tokens with the d of the next dx as an operator, which no factor swallows.

    Raises:
        Unreadable: there is none outside of the brackets that begin behind ``start``.
    """
    depth = 0
    for index in range(start, len(tokens) - 1):
        token = tokens[index]
        if token.kind == "op":
            depth += (token.text in CLOSING) - (token.text in _CLOSERS)
        elif token.text == "d" and tokens[index + 1].kind == "symbol" and depth == 0:
            return [*tokens[:index], Token("op", "differential"), *tokens[index + 1 :]]
    raise Unreadable("has an integral without a differential")
