"""Quantities: formulas with units, currencies and percent signs; numerals in a named base."""

import re
from collections.abc import Sequence
from fractions import Fraction

from megatron_rl.math_answers.kinds.real_sets import is_infinite
from megatron_rl.math_answers.kinds.records import Numeral, Quantity
from megatron_rl.math_answers.parsing.expressions import read_expression
from megatron_rl.math_answers.readers.amounts import multiply_out, read_compound
from megatron_rl.math_answers.text.brackets import enclosed, is_op, strip_group
from megatron_rl.math_answers.text.tokens import Literal, Token
from megatron_rl.math_answers.text.units import (
    CURRENCIES,
    DEGREE,
    LETTER_UNITS,
    Unit,
    is_unit,
    read_unit,
)
from megatron_rl.math_answers.tree import Node, Unreadable, has_op

_BASE_PHRASE = re.compile(r"\s*\(?\s*(?:in )?base\s*")
_BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
               "nine": 9, "ten": 10, "twelve": 12, "sixteen": 16, "hex": 16, "bin": 2}  # fmt: skip
_INFINITE = frozenset({"infinity"})
_BOUNDED_OPS = frozenset({"limit", "sum", "product", "integral"})
_DEGREE_OP = frozenset({"degree"})
# "min" and "sec" are tokens of functions, "in" is one of membership.
_FUNCTION_UNITS = frozenset({"min", "sec"})


def read_quantity(tokens: Sequence[Token], *, log_base: Node, has_letter_units: bool) -> Quantity:
    """Return the formula that tokens spell, with the unit that surrounds it.

    Raises:
        Unreadable: there is no formula in them.
    """
    compound = read_compound(tokens)
    if compound is not None:
        return compound
    tokens, currency = _strip_currency(multiply_out(tokens))
    tokens, unit = _strip_unit(tokens, has_letter_units=has_letter_units)
    if currency is not None:
        unit = _with_currency(currency, unit)
    tokens = _strip_brackets_of_number(tokens)
    if not tokens:
        raise Unreadable("is a unit without a number")
    literal, power = _decimal_of(tokens)
    formula = read_expression(tokens, log_base=log_base)
    if has_op(formula, _INFINITE) and not (is_infinite(formula) or has_op(formula, _BOUNDED_OPS)):
        raise Unreadable("calculates with infinity")
    formula, unit = _take_degrees(formula, unit)
    return Quantity(
        formula=formula,
        unit=unit,
        last_place=None if literal is None or literal.unit is None else literal.unit * power,
        num_places=0 if literal is None else len(_mantissa(tokens).partition(".")[2]),
        has_percent=is_op(tokens[-1], "%"),
    )


def read_numeral(tokens: Sequence[Token]) -> Numeral | None:
    """Read digits with a base, such as ``-1A_{16}``; base ten is an ordinary number.

    Braces and brackets may surround the digits, with or without their sign.
    """
    at = next((i for i, token in enumerate(tokens) if _starts_base(token)), None)
    if at is None or at == 0:
        return None
    front = tokens[:at]
    if is_op(front[-1], "("):
        front = front[:-1]
    front, is_negative = _peel_digits(front)
    if not any(token.kind == "number" for token in front) and not _are_letters(front):
        return None
    base = _read_base(tokens[at + is_op(tokens[at], "_") :])
    if (
        base is None
        or not front
        or not all(t.kind in {"number", "symbol", "word", "text"} for t in front)
    ):
        return None
    if len(front) == 1 and front[0].kind == "symbol":
        return None
    digits = re.sub(r"[,\s{}]|\\[,;:! ]", "", "".join(token.text for token in front)).upper()
    if not re.fullmatch(r"[0-9A-Z]+(?:\.[0-9A-Z]+)?", digits) or base == 10:
        return None
    values = [int(digit, 36) for digit in digits if digit != "."]
    if max(values) >= base:
        if is_negative and any(token.kind == "symbol" for token in front):
            return None  # -3x_2 is a formula
        raise Unreadable("has a digit that the base does not have")
    stripped = digits.lstrip("0")
    if stripped[:1] in {"", "."}:
        stripped = "0" + stripped
    sign = "-" if is_negative and any(values) else ""
    return Numeral(digits=sign + stripped, base=base)


def _peel_digits(tokens: Sequence[Token]) -> tuple[Sequence[Token], bool]:
    """Drop groups around digits, and one sign before them; return whether that is a minus."""
    sign: str | None = None
    while tokens:
        bare = strip_group(tokens)
        inside = enclosed(bare)
        bare = bare if inside is None else inside
        if sign is None and bare and is_op(bare[0], "-", "+"):
            sign, bare = bare[0].text, bare[1:]
        if len(bare) == len(tokens):
            break
        tokens = bare
    return tokens, sign == "-"


def _starts_base(token: Token) -> bool:
    is_phrase = token.kind in {"word", "text"} and _BASE_PHRASE.match(token.text) is not None
    return is_op(token, "_") or is_phrase


def _are_letters(tokens: Sequence[Token]) -> bool:
    return len(tokens) == 1 and tokens[0].kind in {"word", "text"} and len(tokens[0].text) > 1


def _read_base(tokens: Sequence[Token]) -> int | None:
    inner = [token for token in tokens if not is_op(token, "{", "}", "(", ")")]
    if len(inner) == 2 and _BASE_PHRASE.fullmatch(inner[0].text):
        inner = inner[1:]
    if len(inner) != 1 or len(tokens) > 5:
        return None
    text = inner[0].text.casefold()
    text = _BASE_PHRASE.sub("", text).strip(" ()")
    base = _BASE_WORDS.get(text) if not text.isdigit() else int(text[:3])
    return base if base is not None and 2 <= base <= 36 else None


def strip_decimal_base(tokens: Sequence[Token]) -> Sequence[Token]:
    """Drop the subscript of a number in base ten, and groups around that number."""
    for index, token in enumerate(tokens):
        if is_op(token, "_") and index:
            front, is_negative = _peel_digits(tokens[:index])
            is_number = len(front) == 1 and front[0].kind == "number"
            if not is_number or _read_base(tokens[index + 1 :]) != 10:
                return tokens
            return [Token("op", "-"), *front] if is_negative else front
    return tokens


def _strip_currency(tokens: Sequence[Token]) -> tuple[Sequence[Token], Unit | None]:
    sign = list(tokens[:1]) if is_op(tokens[0], "-", "+") else []
    rest = tokens[len(sign) :]
    if rest and (is_op(rest[0], "dollar", "euro") or _is_currency(rest[0])):
        unit = CURRENCIES[rest[0].text.casefold()]
        rest = rest[1:]
        if rest and is_op(rest[0], "dollar"):  # US$
            rest = rest[1:]
        return [*sign, *rest], unit
    if is_op(tokens[-1], "dollar", "euro"):
        return tokens[:-1], CURRENCIES[tokens[-1].text]
    return tokens, None


def _is_currency(token: Token) -> bool:
    return token.kind in {"word", "text"} and token.text.casefold() in CURRENCIES


def _with_currency(currency: Unit, unit: Unit | None) -> Unit:
    if unit is None or unit.words or unit.is_neutral or unit.dimensions == currency.dimensions:
        return currency
    return Unit(
        factor=currency.factor * unit.factor, dimensions=currency.dimensions | unit.dimensions
    )


def _strip_unit(
    tokens: Sequence[Token], *, has_letter_units: bool
) -> tuple[Sequence[Token], Unit | None]:
    for index in range(1, len(tokens)):
        before = tokens[index - 1]
        if before.kind == "op" and before.text in {
            "+",
            "-",
            "*",
            "/",
            "^",
            "_",
            "frac",
            "sqrt",
            "(",
            "{",
        }:
            continue
        if _starts_unit(tokens, index, has_letter_units=has_letter_units):
            rest = [t for t in tokens[index:] if not is_op(t, "dollar")]
            unit = _read_temperature(tokens, index) or read_unit(rest)
            if unit is None:
                continue
            end = index - 1 if is_op(before, "degree") else index
            return tokens[:end], unit
    return tokens, None


def _read_temperature(tokens: Sequence[Token], index: int) -> Unit | None:
    if not is_op(tokens[index - 1], "degree") or len(tokens) > index + 1:
        return None
    name = {"C": "celsius", "F": "fahrenheit"}.get(tokens[index].text, tokens[index].text)
    return read_unit([Token("word", name)])


def _starts_unit(tokens: Sequence[Token], index: int, *, has_letter_units: bool) -> bool:
    token, before = tokens[index], tokens[index - 1]
    is_last = index == len(tokens) - 1
    if token.kind == "text":
        # A letter is a variable, or i: the i of 5\text{i} is no word.
        is_letter = len(token.text) == 1 and token.text.isascii()
        return not is_letter or token.text in LETTER_UNITS or token.text == "u"
    if is_op(token, "frac"):
        return len(tokens) > index + 2 and tokens[index + 2].kind in {"text", "word"}
    if token.kind == "word":
        is_product = token.text.isascii() and len(token.text) <= 3 and not is_unit(token.text)
        return not is_product and (len(token.text) > 3 or has_letter_units)
    if token.kind == "function":
        return token.text in _FUNCTION_UNITS and is_last
    if is_op(token, "in"):
        return is_last or is_op(tokens[index + 1], "^")
    if token.kind == "symbol" and is_op(before, "degree") and is_last:
        return token.text in {"C", "F"}
    if token.kind == "symbol" and token.text == "\\Omega":
        return is_last and before.kind == "number"
    if token.kind == "symbol" and has_letter_units and token.is_spaced:
        is_free = before.kind == "number" or is_op(before, "}", ")")
        follows = is_last or is_op(tokens[index + 1], "/", "^")
        return token.text in LETTER_UNITS and is_free and follows
    return False


def _strip_brackets_of_number(tokens: Sequence[Token]) -> Sequence[Token]:
    tokens = strip_decimal_base(tokens)
    inside = enclosed(tokens)
    is_plain = inside is not None and tokens[0].text in "([" and len(inside) <= 2
    return inside if is_plain and inside else tokens


def _decimal_of(tokens: Sequence[Token]) -> tuple[Literal | None, Fraction]:
    """Return the decimal that an answer consists of and the power of ten it is multiplied by."""
    start = 1 if is_op(tokens[0], "-", "+") else 0
    if len(tokens) <= start or tokens[start].literal is None:
        return None, Fraction(1)
    rest = tokens[start + 1 :]
    if not rest:
        return tokens[start].literal, Fraction(1)
    if len(rest) == 1 and is_op(rest[0], "%"):
        return tokens[start].literal, Fraction(1, 100)
    if len(rest) == 1 and is_op(rest[0], "degree"):
        return tokens[start].literal, Fraction(1)
    is_scientific = is_op(rest[0], "*") and [t.text for t in rest[1:3]] == ["10", "^"]
    if is_scientific:
        text = "".join(t.text for t in rest[3:] if not is_op(t, "{", "}"))
        if re.fullmatch(r"-?\d{1,3}", text):
            return tokens[start].literal, Fraction(10) ** int(text)
    return None, Fraction(1)


def _mantissa(tokens: Sequence[Token]) -> str:
    text = next(token.text for token in tokens if token.kind == "number")
    return re.split("[eE]", text)[0]


def _take_degrees(formula: Node, unit: Unit | None) -> tuple[Node, Unit | None]:
    """Make degrees outside of functions the unit of the whole answer."""
    if unit is not None or not has_op(formula, _DEGREE_OP):
        return formula, unit
    bare, has_degrees = _without_degrees(formula)
    return (bare, DEGREE) if has_degrees else (formula, None)


def _without_degrees(node: Node) -> tuple[Node, bool]:
    if node.op == "degree":
        return node.args[0], True
    if node.op in {"negative", "add", "multiply", "divide"}:
        parts = [_without_degrees(arg) for arg in node.args]
        return Node(node.op, tuple(part for part, _ in parts)), any(has for _, has in parts)
    return node, False
