"""Pratt parser from tokens to a formula tree; nothing is evaluated."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TypeAlias

from megatron_rl.math_answers.text.juxtaposition import split_factors
from megatron_rl.math_answers.text.mixed_numbers import read_proper_fraction
from megatron_rl.math_answers.text.numerals import Literal
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.tree import (
    CLOSING,
    IMAGINARY,
    INFINITY,
    ONE,
    PI,
    E,
    Node,
    Unreadable,
    number,
    product,
    symbol,
)

MAX_DEPTH = 120
_POSTFIXES = {"!": "factorial", "%": "percent", "degree": "degree"}
_BRACKETS = frozenset({"(", "[", "{", "(|", "lfloor", "lceil"})
_STARTING = _BRACKETS | {"frac", "sqrt", "binom", "pi", "infinity"}
_MAX_DOUBLE_FACTORIAL = 300
_END = Token("end", "")

PrefixReader: TypeAlias = "Callable[[Parser, str], Node]"
"""Takes the parser behind a token, and the token's text; returns the node that begins there."""


class Parser:
    """Reads one formula from left to right."""

    def __init__(
        self, tokens: Sequence[Token], log_base: Node, prefixes: Mapping[str, PrefixReader]
    ) -> None:
        """Start before the first token.

        Args:
            tokens: of one formula.
            log_base: of a logarithm that names no base.
            prefixes: readers of function calls (under "function") and of operators that begin an
                operand (under the operator's text).
        """
        self._tokens = split_factors(tokens, has_units=False, has_names=False)
        self._position = 0
        self._depth = 0
        self._num_bars = 0
        self._prefixes = prefixes
        self.log_base = log_base

    def peek(self, ahead: int = 0) -> Token:
        """Return a token without taking it; behind the last one there are tokens of kind "end"."""
        index = self._position + ahead
        return self._tokens[index] if index < len(self._tokens) else _END

    def read_sum(self) -> Node:
        """Take terms with plus and minus signs between them."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("is nested too deeply")
        terms = [self.read_product()]
        while self.is_op("+") or self.is_op("-"):
            is_minus = self.next().text == "-"
            term = self.read_product()
            terms.append(Node("negative", (term,)) if is_minus else term)
        self._depth -= 1
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def next(self) -> Token:
        """Take a token."""
        token = self.peek()
        self._position += 1
        return token

    def is_op(self, text: str, ahead: int = 0) -> bool:
        """Return whether a token is this operator."""
        token = self.peek(ahead)
        return token.kind == "op" and token.text == text

    def expect(self, text: str) -> None:
        """Take this operator.

        Raises:
            Unreadable: another token comes next.
        """
        if not self.is_op(text):
            raise Unreadable(f"has {self.peek().text!r} where {text!r} is expected")
        self._position += 1

    def rewrite(self, change: Callable[[Sequence[Token], int], Sequence[Token]]) -> None:
        """Replace the tokens by ``change(tokens, index of the next token)``."""
        self._tokens = change(self._tokens, self._position)

    def read_product(self) -> Node:
        """Take a term: factors, with or without signs between them, and its own sign."""
        if self.is_op("-"):
            self._position += 1
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise Unreadable("is nested too deeply")
            node = Node("negative", (self.read_product(),))
            self._depth -= 1
            return node
        if self.is_op("+"):
            self._position += 1
            if self.is_op("+"):
                raise Unreadable("has two plus signs side by side")
        factors = [self.read_power()]
        while True:
            token = self.peek()
            if token.kind == "op" and token.text in {"*", "/"}:
                self._position += 1
                factor = self._read_signed_power()
                if token.text == "/":
                    factors = [Node("divide", (product(factors), factor))]
                else:
                    factors.append(factor)
            elif self.starts_factor():
                if token.kind == "number" and self._tokens[self._position - 1].kind == "number":
                    raise Unreadable("has two numbers side by side")
                factors.append(self.read_power())
            else:
                return product(factors)

    def _read_signed_power(self) -> Node:
        if self.is_op("-"):
            self._position += 1
            return Node("negative", (self.read_power(),))
        if self.is_op("+"):
            self._position += 1
        return self.read_power()

    def starts_factor(self) -> bool:
        """Return whether a factor without a sign before it comes next."""
        token = self.peek()
        if token.kind in {"number", "symbol", "function"}:
            return True
        if token.kind == "text":
            return len(token.text) == 1
        if token.kind == "word":
            return True
        if token.kind != "op":
            return False
        if token.text == "|":
            return self._num_bars == 0
        return token.text in _STARTING or token.text in self._prefixes

    def read_power(self) -> Node:
        """Take an atom with its postfixes and exponent."""
        base = self._read_postfix(self.read_atom())
        if self.is_op("^"):
            self._position += 1
            base = self._read_postfix(Node("power", (base, self.read_exponent())))
        return base

    def read_exponent(self) -> Node:
        """Take an exponent, behind the "^"."""
        if self.is_op("-"):
            self._position += 1
            return Node("negative", (self.read_exponent(),))
        if self.is_op("+"):
            self._position += 1
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("is nested too deeply")
        node = self.read_power()  # towers associate to the right
        self._depth -= 1
        return node

    def _read_postfix(self, node: Node) -> Node:
        while self.peek().kind == "op" and self.peek().text in _POSTFIXES:
            token = self.next()
            if token.text == "!" and self.is_op("!") and self.next():
                node = _double_factorial(node, is_last=not self.is_op("!"))
            else:
                node = Node(_POSTFIXES[token.text], (node,))
        return node

    def read_atom(self) -> Node:
        """Take a number, a name, a group or the operand of a prefix."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("is nested too deeply")
        node = self._read_atom_at(self.next())
        self._depth -= 1
        return node

    def _read_atom_at(self, token: Token) -> Node:
        if token.kind == "number":
            return self._read_number(token)
        if token.kind == "symbol" or (token.kind == "text" and len(token.text) == 1):
            return self._read_symbol(token.text)
        if token.kind == "word":
            return symbol(token.text)
        if token.kind == "function":
            return self._prefixes["function"](self, token.text)
        if token.kind == "op":
            return self._read_operator(token.text)
        raise Unreadable(
            f"has an unexpected {token.text!r}" if token is not _END else "ends too early"
        )

    def _read_number(self, token: Token) -> Node:
        assert token.literal is not None, "numbers carry their value"
        value = token.literal.value
        before = self._tokens[self._position - 2] if self._position > 1 else _END
        is_first = before.kind in {"end", "op"} and before.text not in {"^", ")", "]", "}", "frac"}
        if is_first and value.denominator == 1 and token.literal.unit is None:
            found = read_proper_fraction(self.peek)
            if found is not None:
                self._position += found[1]
                return number(value + found[0])
        return number(value)

    def _read_symbol(self, name: str) -> Node:
        if self.is_op("_"):
            self._position += 1
            name = f"{name}_{self._read_label()}"
        while self.is_op("'"):
            self._position += 1
            name += "'"
        if name == "e":
            return E
        return IMAGINARY if name == "i" else symbol(name)

    def _read_label(self) -> str:
        """Return the text of a subscript."""
        token = self.next()
        if token.kind in {"number", "symbol", "text", "word"}:
            return token.text
        if token.kind != "op" or token.text != "{":
            raise Unreadable("has a subscript that is no name")
        parts = []
        while not self.is_op("}"):
            if self.peek() is _END or self.is_op("{"):
                raise Unreadable("has a subscript that is no name")
            parts.append(self.next().text)
        self._position += 1
        return "".join(parts)

    def _read_operator(self, text: str) -> Node:
        if text in CLOSING:
            return self.read_bracketed(text)
        if text == "|":
            self._num_bars += 1
            inner = self.read_sum()
            self._num_bars -= 1
            self.expect("|")
            return Node("function", ("abs", inner))
        if text in {"frac", "binom"}:
            top, bottom = self._read_argument(), self._read_argument()
            return Node("divide" if text == "frac" else "binomial", (top, bottom))
        if text == "sqrt":
            return self._read_root()
        if text == "pi":
            return PI
        if text == "infinity":
            return INFINITY
        if text in self._prefixes:
            return self._prefixes[text](self, text)
        raise Unreadable(f"has an unexpected {text!r}")

    def read_bracketed(self, opening: str) -> Node:
        """Take the inside of brackets and the closing one, behind the opening one."""
        bars, self._num_bars = self._num_bars, 0
        inner = self.read_group() if opening == "{" else self.read_sum()
        if self.is_op("mod") or self.is_op("bmod"):
            self._position += 1
            inner = Node("modulo", (inner, self.read_sum()))
        self.expect(CLOSING[opening])
        self._num_bars = bars
        if opening in {"lfloor", "lceil", "(|"}:
            name = {"lfloor": "floor", "lceil": "ceil", "(|": "abs"}[opening]
            return Node("function", (name, inner))
        return inner

    def read_group(self) -> Node:
        r"""Return the formula between braces, such as ``1 \over 2``."""
        inner = self.read_sum()
        if self.is_op("over") or self.is_op("choose"):
            op = "divide" if self.next().text == "over" else "binomial"
            return Node(op, (inner, self.read_sum()))
        return inner

    def _read_argument(self) -> Node:
        r"""Return an argument of ``\frac``: a group, or one digit, letter or command."""
        token = self.peek()
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self._tokens = list(self._tokens)
            self._tokens[self._position] = _digits(token.text[1:])
            return number(int(token.text[0]))
        return self.read_atom()

    def _read_root(self) -> Node:
        degree = number(2)
        if self.is_op("["):
            self._position += 1
            degree = self.read_sum()
            self.expect("]")
        return Node("root", (self.read_atom(), degree))


def _double_factorial(node: Node, *, is_last: bool) -> Node:
    """Return 7!! written out as 7 * 5 * 3 * 1.

    Raises:
        Unreadable: of a formula or a number beyond a few hundreds, or before another "!".
    """
    value = node.args[0] if node.op == "number" and is_last else None
    if value is None or value.denominator != 1 or not 0 <= value <= _MAX_DOUBLE_FACTORIAL:
        raise Unreadable("has a double factorial of a formula or a large number")
    factors = [number(k) for k in range(int(value), 0, -2)]
    return product(factors) if factors else ONE


def _digits(text: str) -> Token:
    return Token("number", text, False, Literal(Fraction(int(text)), None))
