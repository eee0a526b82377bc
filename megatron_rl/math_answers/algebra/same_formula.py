"""Equality of formulas: normal forms first, then numbers to refute it and SymPy to prove it."""

from collections.abc import Sequence
from functools import lru_cache

from megatron_rl.math_answers.algebra import (
    breakpoints,
    sample_points,
    zero_algebraic,
    zero_angles,
)
from megatron_rl.math_answers.algebra.normal_form import are_same_form, form_of, is_plain
from megatron_rl.math_answers.tree import Node, TooLarge, Undefined, minus, symbols_of


@lru_cache(maxsize=4096)
def are_same_formula(gold: Node, answer: Node) -> bool:
    """Return whether two formulas are provably equal wherever both are defined."""
    try:
        return _are_same(gold, answer)
    except (Undefined, TooLarge):
        return False


def _are_same(gold: Node, answer: Node) -> bool:
    forms = form_of(gold), form_of(answer)
    if gold == answer:
        return True
    if forms[0] is not None and forms[1] is not None:
        if are_same_form(forms[0], forms[1]):
            return True
        if is_plain(forms[0]) and is_plain(forms[1]):
            return False
    names = sorted(symbols_of(gold) | symbols_of(answer))
    differ, num_agreements = sample_points.compare_at(
        gold, answer, sample_points.near_points(names)
    )
    if differ:
        return False
    if not names:
        return _is_same_constant(gold, answer)
    if breakpoints.has_breakpoints(gold) or breakpoints.has_breakpoints(answer):
        return _are_same_with_breakpoints(gold, answer, names)
    if not sample_points.is_enough(num_agreements):
        # A logarithm of x - 5 is real beyond 5 only.
        differ, num_agreements = sample_points.compare_at(
            gold, answer, sample_points.far_points(names)
        )
        if differ:
            return False
    if sample_points.is_enough(num_agreements):
        is_same = sample_points.are_same_to_the_last_bit(gold, answer, names)
        if is_same is not None:
            return is_same
    from megatron_rl.math_answers.algebra.sympy_proof import is_proved_equal

    return is_proved_equal(gold, answer)


def _is_same_constant(gold: Node, answer: Node) -> bool:
    """Return whether two constants are proved to be equal; numbers never suffice for that."""
    difference = minus(gold, answer)
    is_zero = zero_algebraic.is_zero(difference)
    if is_zero is not None or zero_angles.is_zero(difference):
        return is_zero is not False
    from megatron_rl.math_answers.algebra.sympy_proof import is_proved_equal

    return is_proved_equal(gold, answer)


def _are_same_with_breakpoints(gold: Node, answer: Node, names: Sequence[str]) -> bool:
    """Return whether formulas with |x| and the like agree on both sides of every breakpoint."""
    points = [*sample_points.near_points(names), *sample_points.far_points(names)]
    if sample_points.compare_at(gold, answer, points)[0]:
        return False
    has_roots_only = breakpoints.have_roots_only(gold, answer)
    if not has_roots_only and not sample_points.are_real_together(gold, answer, points):
        return False
    if not sample_points.may_hide(gold, answer) and breakpoints.agree_between(gold, answer):
        return True
    from megatron_rl.math_answers.algebra.sympy_proof import is_proved_equal

    # Of positive variables alone a proof is one half; for roots the points above are the other.
    is_half_enough = has_roots_only and len(names) > 1
    return is_proved_equal(gold, answer, sign="real") or (
        is_half_enough and is_proved_equal(gold, answer)
    )
