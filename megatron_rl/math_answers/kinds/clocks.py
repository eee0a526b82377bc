"""Times of day, such as 10:30 or 2:30 PM, told from ratios."""

import re
from collections.abc import Sequence

from megatron_rl.math_answers.algebra.same_formula import are_same_formula
from megatron_rl.math_answers.kinds.records import Answer, Clock, Quantity, Ratio
from megatron_rl.math_answers.kinds.residues import are_same_ratios, is_same_quotient
from megatron_rl.math_answers.text.brackets import is_op
from megatron_rl.math_answers.text.tokens import Token
from megatron_rl.math_answers.tree import Node, number

_HALVES = {"am": "am", "pm": "pm", "a m": "am", "p m": "pm"}
_LATEST_HOUR, _MINUTES = 24, 60


def read_clock(tokens: Sequence[Token]) -> Clock | None:
    """Read hours and minutes, or hours with "am" or "pm"; None where there are none."""
    half = None
    if len(tokens) > 1 and tokens[-1].kind in {"word", "text"}:
        half = _HALVES.get(tokens[-1].text.casefold().replace(".", ""))
        tokens = tokens[:-1] if half is not None else tokens
    spelled = "".join(token.text for token in tokens)
    if len(tokens) == 3 and is_op(tokens[1], ":") and re.fullmatch(r"\d{1,2}:\d\d", spelled):
        hour, minute = map(int, spelled.split(":"))
    elif half is not None and len(tokens) == 1 and re.fullmatch(r"\d{1,2}", spelled):
        hour, minute = int(spelled), 0
    else:
        return None
    if hour > (_LATEST_HOUR if half is None else 12) or minute >= _MINUTES:
        return None
    return Clock(hour=hour, minute=minute, half=half)


def are_same_clocks(gold: Clock, answer: Clock) -> bool:
    """Return whether two times are the same; the half of the day may be missing on one side."""
    if gold.minute != answer.minute:
        return False
    if (gold.half is None) == (answer.half is None):
        return _of_day(gold) == _of_day(answer)
    return gold.hour == answer.hour or _of_day(gold) == _of_day(answer)


def is_same_as_clock(gold: Answer, answer: Answer) -> bool:
    """Return whether a time and something else are the same.

    Beside a gold answer of another kind, 10:30 is a ratio. A gold answer such as 10:30 may be a
    ratio too; then only a fraction of the same two numbers is equal to it.
    """
    if isinstance(answer, Clock):
        ratio = _as_ratio(answer)
        if ratio is None:
            return False
        if isinstance(gold, Ratio):
            return are_same_ratios(gold, ratio)
        return isinstance(gold, Quantity) and is_same_quotient(gold, ratio)
    if not isinstance(gold, Clock) or not isinstance(answer, Quantity) or answer.unit is not None:
        return False
    ratio = _as_ratio(gold)
    formula = answer.formula
    is_fraction = formula.op == "divide" and all(arg.op == "number" for arg in formula.args)
    return (
        ratio is not None and is_fraction and all(map(are_same_formula, ratio.terms, formula.args))
    )


def _as_ratio(clock: Clock) -> Ratio | None:
    if clock.half is not None or not clock.hour or not clock.minute:
        return None
    terms: tuple[Node, ...] = number(clock.hour), number(clock.minute)
    return Ratio(terms=terms)


def _of_day(clock: Clock) -> int:
    if clock.half is None:
        return clock.hour
    return clock.hour % 12 + (12 if clock.half == "pm" else 0)
