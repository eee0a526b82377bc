"""Whether two formulas are the same: normal forms first, then numbers to refute, SymPy to prove."""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from megatron_rl.verifiers.exact import are_same_form, form_of, is_plain
from megatron_rl.verifiers.syntax import Node, TooLarge, Undefined, Unreadable, minus, symbols_of

# Points without special meaning; both signs, so that |x| is not x.
_POINTS = (
    Fraction(7, 5), Fraction(-13, 11), Fraction(29, 17), Fraction(3, 7), Fraction(-41, 19),
    Fraction(53, 23), Fraction(-5, 13), Fraction(61, 31), Fraction(-71, 29), Fraction(17, 37),
)  # fmt: skip
_NUM_PROBES = 8
_LARGEST_LITERAL = 10**12


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
    agreements = _compare_at_points(gold, answer, names)
    if agreements is False:
        return False
    if not names:
        from megatron_rl.verifiers import algebraic, angles  # late: mpmath takes 0.05 s

        difference = minus(gold, answer)
        is_zero = algebraic.is_zero(difference)
        if is_zero is not None or angles.is_zero(difference):
            return is_zero is not False
    from megatron_rl.verifiers.symbolic import is_proved_equal  # late: SymPy takes 0.3 s

    if is_proved_equal(gold, answer):
        return True
    # An identity of functions that holds to 35 digits at many points, with no number small or
    # large enough to hide a difference there. Constants need the proof.
    is_probed = agreements is True and bool(names)
    return is_probed and not (_has_extreme_number(gold) or _has_extreme_number(answer))


def _compare_at_points(gold: Node, answer: Node, names: Sequence[str]) -> bool | None:
    """Return False where they differ, True after enough agreements, None when nothing was found."""
    from megatron_rl.verifiers.numeric import are_apart, evaluate, is_finite, is_real

    num_agreements, spare = 0, []
    for probe in range(_NUM_PROBES if names else 1):
        values = {
            name: _POINTS[(probe + 3 * k) % len(_POINTS)] + Fraction(k, 7)
            for k, name in enumerate(names)
        }
        try:
            pair = evaluate(gold, values), evaluate(answer, values)
        except (TooLarge, Undefined, Unreadable):
            continue
        if names and not (is_real(pair[0]) and is_real(pair[1])):
            spare.append(pair)
            continue
        if is_finite(pair[0]) and is_finite(pair[1]):
            if are_apart(*pair):
                return False
            num_agreements += 1
    if num_agreements == 0:
        for pair in spare:
            if is_finite(pair[0]) and is_finite(pair[1]):
                if are_apart(*pair):
                    return False
                num_agreements += 1
    return True if num_agreements >= 3 else None


def _has_extreme_number(node: Node) -> bool:
    if node.op == "number":
        value = node.args[0]
        return abs(value.numerator) > _LARGEST_LITERAL or value.denominator > _LARGEST_LITERAL
    if node.op == "power" and node.args[1].op in {"number", "negative"}:
        inner = node.args[1].args[0]
        exponent = inner if isinstance(inner, Fraction) else None
        if inner.op == "number" if isinstance(inner, Node) else False:
            exponent = inner.args[0]
        if exponent is not None and abs(exponent) > 12 and not symbols_of(node.args[0]):
            return True
    return any(_has_extreme_number(arg) for arg in node.args if isinstance(arg, Node))
