"""Congruences in all spellings of their modulus: ``3 \\pmod 7``, ``x = 3 (mod 7)``."""

from collections.abc import Sequence

from megatron_rl.math_answers.kinds.records import Residues
from megatron_rl.math_answers.parsing.expressions import read_expression
from megatron_rl.math_answers.parsing.plus_minus import expand_signs
from megatron_rl.math_answers.text.brackets import enclosed, is_op, split, strip_group
from megatron_rl.math_answers.text.names import name_of
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.tree import Node, Unreadable


def read_residues(tokens: Sequence[Token], log_base: Node) -> Residues | None:
    r"""Read ``x = 3 (mod 7)`` in its spellings; None where no modulus is named.

    Either side may hold the variable. ``12 \bmod 7 = 5`` is an equation of numbers.
    """
    places = [i for i, token in enumerate(tokens) if is_op(token, "mod", "pmod", "bmod")]
    if len(places) != 1 or places[0] == 0:
        return None
    at = places[0]
    left, right = list(tokens[:at]), list(tokens[at + 1 :])
    if is_op(left[-1], "(") and right and is_op(right[-1], ")"):
        left, right = left[:-1], right[:-1]
    right = list(strip_group(right))
    inside = enclosed(right)
    right = list(right if inside is None else inside)
    if left and is_op(left[-1], ","):
        left = left[:-1]
    parts, signs = split(left, frozenset({"equiv", "="}))
    if len(parts) == 2 and name_of(parts[0]) is None and name_of(parts[1]) is not None:
        parts.reverse()
    variable = name_of(parts[0]) if len(parts) == 2 else None
    is_remainder = is_op(tokens[at], "bmod") and "equiv" not in signs
    has_equation = any(is_op(token, "=") for token in right)
    if is_remainder and (has_equation or (len(parts) > 1 and variable is None) or len(parts) > 2):
        return None
    if len(parts) > 2 or (len(parts) == 2 and variable is None) or not right:
        raise Unreadable("is a congruence that is not solved for a variable")
    found: list[Node] = []
    for part in split(parts[-1], frozenset({",", "or", "and"}))[0]:
        if part:
            found.extend(read_expression(v, log_base=log_base) for v in expand_signs(part))
    if not found:
        raise Unreadable("is a congruence without a residue")
    modulus = read_expression(right, log_base=log_base)
    return Residues(
        residues=tuple(found), modulus=modulus, variable=variable, is_remainder=is_remainder
    )
