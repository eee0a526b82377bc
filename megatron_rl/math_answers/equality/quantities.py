"""Equality of quantities: letters, units, angles, rounding and percent signs."""

from fractions import Fraction

from megatron_rl.math_answers.algebra.form import rational_value
from megatron_rl.math_answers.algebra.normal_form import form_of
from megatron_rl.math_answers.algebra.numeric import rounds_to
from megatron_rl.math_answers.algebra.same_formula import are_same_formula
from megatron_rl.math_answers.kinds.periodic import class_of_angle
from megatron_rl.math_answers.kinds.real_sets import is_infinite
from megatron_rl.math_answers.kinds.records import Answer, Quantity, Words
from megatron_rl.math_answers.kinds.residues import are_same_residues
from megatron_rl.math_answers.text.units import DEGREE, RADIAN, conversion_between
from megatron_rl.math_answers.tree import (
    PI,
    Node,
    TooLarge,
    Undefined,
    Unreadable,
    has_op,
    number,
    symbol,
    symbols_of,
)

_MIN_PLACES_TO_ROUND = 3
_MIN_DIGITS_TO_ROUND = 10
"""The smallest number of two significant digits."""
_CHOICES = frozenset("ABCDEFGH")
_CONSTANTS = frozenset(map(symbol, "cKk"))
"""Names of the constant of integration, besides C."""
_PI_OP = frozenset({"pi"})


def letter_of(answer: Answer) -> str | None:
    """Return the letter that an answer consists of, None where it is more than that."""
    if isinstance(answer, Words) and len(answer.text) == 1:
        return answer.text
    if isinstance(answer, Quantity) and answer.unit is None:
        if answer.formula.op == "symbol" and len(answer.formula.args[0]) == 1:
            return answer.formula.args[0]
        if answer.formula.op in {"e", "i"}:
            return answer.formula.op
    return None


def is_same_letter(gold: str | None, answer: str | None) -> bool:
    """Return whether two letters are equal; a choice such as A may be written in lower case."""
    if gold is None or answer is None:
        return False
    return gold == answer or (gold in _CHOICES and gold == answer.upper())


def are_same_quantities(gold: Quantity, answer: Quantity) -> bool:
    """Return whether two quantities are equal under the rules for units and rounding."""
    letters = letter_of(gold), letter_of(answer)
    if None not in letters:
        return is_same_letter(letters[0], letters[1])
    if _is_same_angle(gold, answer):
        return True
    conversion = conversion_between(gold.unit, answer.unit)
    if conversion is None:
        return False
    if is_infinite(gold.formula) or is_infinite(answer.formula):
        return gold.formula == answer.formula
    formula = _with_constant_of(gold.formula, answer.formula)
    if conversion != 1:
        formula = Node("multiply", (number(conversion), formula))
    if are_same_formula(gold.formula, formula):
        return True
    classes = class_of_angle(gold), class_of_angle(answer)
    if classes[0] is not None and classes[1] is not None:
        return are_same_residues(classes[0], classes[1])
    if gold.last_place is not None and gold.num_places >= _MIN_PLACES_TO_ROUND:
        return _is_rounded(gold, answer, formula)
    return _is_same_percentage(gold, answer)


def _is_same_angle(gold: Quantity, answer: Quantity) -> bool:
    """Return whether one side is in degrees, the other in radians or a bare multiple of pi."""
    if DEGREE not in {gold.unit, answer.unit} or not {gold.unit, answer.unit} & {RADIAN, None}:
        return False
    degrees, bare = (gold, answer) if gold.unit == DEGREE else (answer, gold)
    if bare.unit is None and not (has_op(bare.formula, _PI_OP) or _is_inverse(bare.formula)):
        return False
    radians = Node("multiply", (degrees.formula, Node("divide", (PI, number(180)))))
    return are_same_formula(radians, bare.formula)


def _is_inverse(formula: Node) -> bool:
    """Return whether a formula is arcsin(1/2) or the like, which is an angle."""
    return formula.op == "function" and formula.args[0].startswith("arc")


def _with_constant_of(gold: Node, formula: Node) -> Node:
    """Return a formula whose constant of integration is named as that of the gold."""
    wanted = symbol("C")
    if gold.op != "add" or formula.op != "add" or wanted not in gold.args:
        return formula
    others = symbols_of(gold) | {"C"}
    named = [arg for arg in formula.args if arg in _CONSTANTS and arg.args[0] not in others]
    rest = [arg for arg in formula.args if arg not in named]
    taken = set().union(*map(symbols_of, rest))
    if len(named) != 1 or {"C", named[0].args[0]} & taken:
        return formula
    return Node("add", (*rest, wanted))


def _is_rounded(gold: Quantity, answer: Quantity, formula: Node) -> bool:
    """Return whether an exact answer, or a finer decimal, rounds to the decimal that gold is."""
    if answer.last_place is not None and answer.num_places <= gold.num_places:
        return False
    assert gold.last_place is not None, "the caller asked"
    form = form_of(gold.formula)
    value = None if form is None else rational_value(form)
    if value is None or symbols_of(formula):
        return False
    # 0.001 is anything from 0.0005 to 0.0015.
    if abs(value) < gold.last_place * _MIN_DIGITS_TO_ROUND:
        return False
    return _rounds_to(formula, value, gold.last_place)


def _rounds_to(formula: Node, value: Fraction, last_place: Fraction) -> bool:
    try:
        return rounds_to(formula, value, last_place)
    except (Undefined, TooLarge, Unreadable):
        return False


def _is_same_percentage(gold: Quantity, answer: Quantity) -> bool:
    """Return whether only the percent sign is missing on one side."""
    if gold.has_percent == answer.has_percent or gold.unit or answer.unit:
        return False
    hundred = number(100)
    if gold.has_percent:
        return are_same_formula(Node("multiply", (gold.formula, hundred)), answer.formula)
    return are_same_formula(gold.formula, Node("multiply", (answer.formula, hundred)))
