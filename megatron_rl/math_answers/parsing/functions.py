"""Function calls, read into trees: bases, powers, inverses, arguments with or without brackets."""

from megatron_rl.math_answers.parsing.parser import Parser
from megatron_rl.math_answers.tree import CLOSING, ONE, E, Node, Unreadable, number, product

_INVERSES = {
    name: f"arc{name}"
    for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
}
_SEVERAL = frozenset({"gcd", "lcm", "max", "min"})


def read_function(parser: Parser, name: str) -> Node:
    """Return the node of a function, behind whose name the parser stands.

    Raises:
        Unreadable: no argument follows.
    """
    base = parser.log_base if name == "log" else None
    power: Node | None = None
    if parser.is_op("_"):
        parser.next()
        base = parser.read_atom()
    if parser.is_op("^"):
        parser.next()
        power = parser.read_exponent()
    if name in _SEVERAL or (parser.is_op("(") and _has_comma(parser)):
        return Node("function", (name, *_read_several(parser)))
    inverse = _INVERSES.get(name)
    if power == Node("negative", (ONE,)) and inverse is not None:
        name, power = inverse, None
    node = _apply(name, base, _read_argument(parser))
    return node if power is None else Node("power", (node, power))


def _has_comma(parser: Parser) -> bool:
    depth = ahead = 0
    while (token := parser.peek(ahead)).kind != "end":
        text = token.text if token.kind == "op" else ""
        depth += (text in {"(", "[", "{"}) - (text in {")", "]", "}"})
        if depth == 1 and text == ",":
            return True
        if depth == 0:
            return False
        ahead += 1
    return False


def _read_several(parser: Parser) -> list[Node]:
    opening = parser.next().text
    closing = "}s" if opening == "{s" else CLOSING.get(opening)
    if closing is None:
        raise Unreadable("has a function whose arguments have no brackets")
    found = [parser.read_sum()]
    while parser.is_op(","):
        parser.next()
        found.append(parser.read_sum())
    parser.expect(closing)
    return found


def _read_argument(parser: Parser) -> Node:
    if parser.is_op("(") or parser.is_op("{") or parser.is_op("["):
        node = parser.read_bracketed(parser.next().text)
        if parser.is_op("degree"):
            parser.next()
            return Node("degree", (node,))
        return node
    num_signs = 0
    while parser.is_op("-"):
        parser.next()
        num_signs += 1
    if num_signs:
        inner = _read_argument(parser)
        return Node("negative", (inner,)) if num_signs % 2 else inner
    factors = [parser.read_power()]
    while parser.starts_factor() and parser.peek().kind != "function" and not parser.is_op("("):
        factors.append(parser.read_power())
    return product(factors)


def _apply(name: str, base: Node | None, argument: Node) -> Node:
    if name in {"log", "lg", "ln"}:
        if name == "lg":
            base = number(10)
        logarithm = Node("function", ("ln", argument))
        if base is None or base == E:
            return logarithm
        return Node("divide", (logarithm, Node("function", ("ln", base))))
    if name == "exp":
        return Node("power", (E, argument))
    if name in {"sqrt", "cbrt"}:
        return Node("root", (argument, number(2 if name == "sqrt" else 3)))
    return Node("function", (name, argument))
