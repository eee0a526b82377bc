r"""Periodic values: ``1 + k\pi, k \in \mathbb{Z}`` is the residue class of 1 modulo pi.

The name of the parameter makes no difference, nor does the representative of the class.
"""

from collections.abc import Sequence

from megatron_rl.math_answers.algebra.normal_form import form_of
from megatron_rl.math_answers.algebra.polynomials import Poly
from megatron_rl.math_answers.kinds.records import Answer, Definition, Quantity, Residues
from megatron_rl.math_answers.text.brackets import is_op
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.text.word_tables import WHERE
from megatron_rl.math_answers.tree import (
    ONE,
    ZERO,
    Node,
    Undefined,
    has_op,
    minus,
    replace,
    symbol,
    symbols_of,
)

PARAMETERS = frozenset({"k", "n", "m", "l"})
_CONSTANTS = frozenset({"prime", "pi", "e"})
_PI = frozenset({"pi"})


def as_class(item: Answer, parameter: str) -> Answer:
    """Return a value, with its name if it has one, as a residue class where it is one."""
    if isinstance(item, Definition):
        return Definition(name=item.name, value=as_class(item.value, parameter))
    formula = _formula_of(item)
    found = None if formula is None else _class_of(formula, parameter)
    return item if found is None else found


def class_of(answer: Answer) -> Residues | None:
    """Return the class that a formula such as ``7k + 3`` stands for by custom."""
    formula = _formula_of(answer)
    if formula is None:
        return None
    names = symbols_of(formula)
    return _class_of(formula, *names) if len(names) == 1 and names <= PARAMETERS else None


def class_of_angle(answer: Answer) -> Residues | None:
    """Return the class of an angle such as ``k pi``, in which k is any integer by custom."""
    formula = _formula_of(answer)
    return class_of(answer) if formula is not None and has_op(formula, _PI) else None


def split_domain(tokens: Sequence[Token]) -> Sequence[Token]:
    r"""Put a comma before ``(k \in \mathbb{Z})`` or ``where k \in \mathbb{Z}``."""
    has_bracket = is_op(tokens[-1], ")")
    body = tokens[:-1] if has_bracket else tokens
    if len(body) < 5 or body[-1].kind != "set" or not is_op(body[-2], "in"):
        return tokens
    before = body[-4]
    is_phrase = before.kind in {"text", "word"} and before.text.casefold() in WHERE
    if body[-3].kind != "symbol" or not (is_op(before, "(") if has_bracket else is_phrase):
        return tokens
    start = body[:-4]
    return [*(start[:-1] if is_op(start[-1], ",") else start), Token("op", ","), *body[-3:]]


def _formula_of(answer: Answer) -> Node | None:
    return answer.formula if isinstance(answer, Quantity) and answer.unit is None else None


def _class_of(formula: Node, parameter: str) -> Residues | None:
    try:
        form = form_of(formula)
    except Undefined:
        return None
    if form is None or not all(_is_linear(poly, parameter) for poly in form):
        return None
    if any(("symbol", parameter) in dict(monomial) for monomial in form.bottom):
        return None
    start, following = (replace(formula, symbol(parameter), value) for value in (ZERO, ONE))
    return Residues(residues=(start,), modulus=minus(following, start))


def _is_linear(poly: Poly, parameter: str) -> bool:
    for monomial in poly:
        exponents = dict(monomial)
        if exponents.pop(("symbol", parameter), 1) != 1:
            return False
        if any(atom[0] not in _CONSTANTS for atom in exponents):
            return False
    return True
