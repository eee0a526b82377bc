"""Reader of answers: lists, tuples, sets, relations, quantities or words from text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from megatron_rl.math_answers.kinds.clocks import read_clock
from megatron_rl.math_answers.kinds.inequalities import as_real_set
from megatron_rl.math_answers.kinds.periodic import as_class, split_domain
from megatron_rl.math_answers.kinds.real_sets import (
    ALL_REALS,
    complement,
    intersection,
    is_surely_empty,
    make_interval,
    union,
)
from megatron_rl.math_answers.kinds.records import (
    Answer,
    Collection,
    Comparison,
    Definition,
    NumberSet,
    Ordered,
    Quantity,
    Ratio,
    RealSet,
    Residues,
    Words,
)
from megatron_rl.math_answers.parsing.expressions import read_expression
from megatron_rl.math_answers.parsing.plus_minus import expand_signs
from megatron_rl.math_answers.readers import matrices, quantities, relations
from megatron_rl.math_answers.readers.residues import read_residues
from megatron_rl.math_answers.readers.words import read_choice, read_words
from megatron_rl.math_answers.text.brackets import (
    enclosed,
    is_op,
    split,
    strip_group,
    strip_punctuation,
)
from megatron_rl.math_answers.text.juxtaposition import split_factors
from megatron_rl.math_answers.text.normalize import normalize_answer
from megatron_rl.math_answers.text.tokens import Token, tokenize
from megatron_rl.math_answers.tree import ZERO, Node, Unreadable, number

MAX_ANSWER_CHARS = 2000
_SEPARATORS = frozenset({",", ";", "and", "or"})
_MINUS_WORDS = frozenset({"minus", "negative"})
_ABOUT_WORDS = frozenset({"about", "approximately", "roughly"})
_SET_OPERATORS = frozenset({"cup", "cap", "setminus", "bigcup"})


TEN = number(10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """Choices between two readings of an ambiguous text."""

    log_base: Node = TEN
    """Of a logarithm that names none."""
    has_letter_units: bool = True
    """Whether the m of "5 m" is a metre."""
    has_exponents: bool = True
    """Whether 2e3 is two thousand."""


@lru_cache(maxsize=512)
def read_answer(text: str, dialect: Dialect) -> Answer:
    """Return the answer that ``text`` spells.

    Raises:
        Unreadable: it is too long, malformed or beyond the language.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise Unreadable("is too long")
    normal = normalize_answer(text)
    if not dialect.has_exponents:
        normal = re.sub(r"(?<=\d)([eE])(?=[-+]?\d)", r"\1 ", normal)
    tokens = strip_punctuation(tokenize(normal))
    if not tokens:
        raise Unreadable("is empty")
    return _read(tokens, dialect)


def _read(tokens: Sequence[Token], dialect: Dialect) -> Answer:
    tokens = strip_group(strip_punctuation(tokens))
    if not tokens:
        raise Unreadable("has an empty part")
    if len(tokens) == 1 and is_op(tokens[0], "dots"):
        return Words(text="...")
    tokens = split_domain(tokens)
    if tokens[0].text.casefold() in _MINUS_WORDS and len(tokens) > 1 and not _is_wordy(tokens[1]):
        tokens = [Token("op", "-"), *tokens[1:]]
    if tokens[0].text.casefold() in _ABOUT_WORDS and len(tokens) > 1 and not _is_wordy(tokens[1]):
        tokens = tokens[1:]
    choice = read_choice(tokens, lambda rest: _read(rest, dialect))
    if choice is not None:
        return choice
    words = read_words(tokens)
    if words is not None:
        return words
    residues = read_residues(tokens, dialect.log_base)
    if residues is not None:
        return residues
    clock = read_clock(tokens)
    if clock is not None:
        return clock
    numeral = quantities.read_numeral(tokens)
    if numeral is not None:
        return numeral
    outward = _read_outward_interval(tokens, dialect)
    if outward is not None:
        return outward
    parts, separators = split(tokens, _SEPARATORS)
    if len(parts) > 1:
        return _read_list(parts, separators, dialect)
    return _read_single(tokens, dialect)


def _is_wordy(token: Token) -> bool:
    return token.kind in {"word", "text"}


def _read_list(parts: list[Sequence[Token]], separators: list[str], dialect: Dialect) -> Answer:
    parts = [part for part in parts if part]  # "1, 2, and 3" has an empty one
    if not parts:
        raise Unreadable("is a list without items")
    items: list[Answer] = []
    for part in parts:
        item = _read(part, dialect)
        items.extend(item.items if isinstance(item, Collection) and not item.is_set else [item])
    return relations.combine(items, is_or="or" in separators, is_and="and" in separators)


def _read_single(tokens: Sequence[Token], dialect: Dialect) -> Answer:
    tokens = split_factors(tokens, has_units=dialect.has_letter_units, has_names=True)
    variants = expand_signs(tokens)
    if len(variants) > 1:
        return relations.combine([_read(v, dialect) for v in variants], is_or=True)
    if any(is_op(token, "begin") for token in tokens):
        matrix = matrices.read_environment(
            tokens,
            read=lambda part: _read(part, dialect),
            read_list=lambda rows: _read_list(rows, [","], dialect),
        )
        if matrix is not None:
            return matrix
    relation = relations.read_relation(tokens, dialect.log_base, lambda part: _read(part, dialect))
    if relation is not None:
        return relation
    bracketed = _read_bracketed(tokens, dialect)
    if bracketed is not None:
        return bracketed
    combined = _read_set_operation(tokens, dialect)
    if combined is not None:
        return combined
    terms, _ = split(tokens, frozenset({":"}))
    if len(terms) > 1:
        found = tuple(read_expression(term, log_base=dialect.log_base) for term in terms)
        if ZERO in found:
            raise Unreadable("is a ratio with a term of zero")
        return Ratio(terms=found)
    return quantities.read_quantity(
        tokens, log_base=dialect.log_base, has_letter_units=dialect.has_letter_units
    )


def _read_bracketed(tokens: Sequence[Token], dialect: Dialect) -> Answer | None:
    if len(tokens) == 1 and tokens[0].kind == "set":
        name = tokens[0].text
        return ALL_REALS if name == "reals" else NumberSet(name=name)
    if len(tokens) == 1 and is_op(tokens[0], "emptyset"):
        return RealSet(pieces=())
    inner = enclosed(tokens)
    if inner is None:
        return None
    closing = (tokens[0].text, tokens[-1].text)
    if closing == ("{s", "}s"):
        return _read_braces(inner, dialect)
    parts, _ = split(inner, frozenset({",", ";"}))
    if len(parts) < 2:
        if len(parts) == 1 and closing in {("<(", ")>")}:
            return Ordered(items=(_read(inner, dialect),))
        has_structure = any(is_op(t, op) for t in inner for op in ("<=", "<", ">", ">=", "in"))
        if has_structure or not inner or enclosed(inner) is not None:
            return _read(inner, dialect)
        return None
    items = tuple(_read(part, dialect) for part in parts)
    if closing in {("(", "]"), ("[", ")")}:
        return _interval(items, closing)
    return Ordered(items=items, opening=closing[0], closing=closing[1])


def _read_outward_interval(tokens: Sequence[Token], dialect: Dialect) -> RealSet | None:
    """Read an interval with outward brackets, such as ``]1, 2[``."""
    first, last = tokens[0], tokens[-1]
    is_outward = is_op(first, "]") or is_op(last, "[")
    if not (is_outward and is_op(first, "]", "[", "(") and is_op(last, "]", "[", ")")):
        return None
    parts, _ = split(tokens[1:-1], frozenset({",", ";"}))
    if len(parts) != 2 or any(is_op(token, "[", "]") for token in tokens[1:-1]):
        return None
    return _interval(tuple(_read(part, dialect) for part in parts), (first.text, last.text))


def _interval(items: tuple[Answer, ...], brackets: tuple[str, str]) -> RealSet:
    ends = [item.formula for item in items if isinstance(item, Quantity) and item.unit is None]
    if len(ends) != 2 or len(items) != 2:
        raise Unreadable("is an interval without two ends")
    found = make_interval(ends[0], ends[1], brackets[0] != "[", brackets[1] != "]")
    if is_surely_empty(found):
        raise Unreadable("is an interval whose ends are in the wrong order")
    return found


def _read_braces(inner: Sequence[Token], dialect: Dialect) -> Answer:
    if not inner:
        return RealSet(pieces=())
    for bar in ("mid", "|", ":"):
        parts, _ = split(inner, frozenset({bar}))
        if len(parts) == 2 and all(parts):
            return _read_builder(parts[0], parts[1], dialect)
    parts, _ = split(inner, frozenset({",", ";"}))
    items: list[Answer] = []
    for part in parts:
        item = _read(part, dialect)
        items.extend(item.items if isinstance(item, Collection) and not item.is_set else [item])
    return Collection(items=tuple(items), is_set=True)


def _read_builder(
    variable: Sequence[Token], condition: Sequence[Token], dialect: Dialect
) -> Answer:
    """Read the inside of ``{x | x > 2}``; the variable is bound and falls away."""
    found = _read(condition, dialect)
    if isinstance(found, Comparison):
        solved = as_real_set(found)
        found = found if solved is None else solved
    if isinstance(found, RealSet):
        if found.variable is not None and found.variable != variable[0].text:
            raise Unreadable("is a set of something else than its condition is about")
        return RealSet(pieces=found.pieces)
    if isinstance(found, NumberSet) and len(variable) > 1:
        if found.name == "integers" and found.variable is not None:
            return as_class(_read(variable, dialect), found.variable)
        raise Unreadable("has values of a parameter that is no integer")
    if isinstance(found, NumberSet) or (isinstance(found, Definition) and len(variable) == 1):
        return found if isinstance(found, NumberSet) else found.value
    if isinstance(found, Collection) and all(isinstance(i, Definition) for i in found.items):
        values = tuple(i.value for i in found.items if isinstance(i, Definition))
        return Collection(items=values, is_set=True)
    if isinstance(found, Residues):
        return Residues(residues=found.residues, modulus=found.modulus)
    return Ordered(items=(_read(variable, dialect), found), opening="builder", closing="builder")


def _read_set_operation(tokens: Sequence[Token], dialect: Dialect) -> RealSet | None:
    if tokens[0].kind == "set" and len(tokens) > 2 and is_op(tokens[1], "-"):
        tokens = [tokens[0], Token("op", "setminus"), *tokens[2:]]
    if not any(is_op(token, op) for token in tokens for op in _SET_OPERATORS):
        return None
    # Outward brackets do not pair; these operators stand between intervals anyway.
    parts, operators = split(tokens, _SET_OPERATORS, is_flat=is_op(tokens[0], "]"))
    if len(parts) < 2:
        return None
    total = _as_set(_read(parts[0], dialect))
    for operator, part in zip(operators, parts[1:], strict=True):
        other = _as_set(_read(part, dialect))
        if operator in {"cup", "bigcup"}:
            total = union(total, other)
        elif operator == "cap":
            total = intersection(total, other)
        else:
            total = intersection(total, complement(other))
    return total


def _as_set(answer: Answer) -> RealSet:
    found = as_real_set(answer)
    if found is None:
        raise Unreadable("has a part that is no set of real numbers")
    return found
