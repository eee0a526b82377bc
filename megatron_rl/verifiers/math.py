r"""Math answers: the last ``\boxed{...}`` of the answer part against the ground truth.

Equality is decided by the cheapest test that can: the same spelling, then the same exact number,
then SymPy. What cannot be parsed is never equal to something else that cannot be parsed.
"""

import re
from fractions import Fraction

from megatron_rl.types import Problem, Verdict
from megatron_rl.verifiers.format import find_last_box, split_response
from megatron_rl.verifiers.normalize import normalize_answer

# int() refuses more than 4300 digits, and no answer needs a thousand.
_DIGITS = r"\d{1,1000}"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)(?:
      (?P<decimal>{_DIGITS}(?:\.\d{{0,1000}})?)
    | (?P<whole>(?:{_DIGITS}[ ](?=\d)|{_DIGITS}(?=\\))?)
      (?:\\frac\{{(?P<num>[-+]?{_DIGITS})\}}\{{(?P<den>[-+]?{_DIGITS})\}}
        |(?P<plain_num>{_DIGITS})/(?P<plain_den>{_DIGITS}))
    )""",
    re.VERBOSE,
)
# Longer answers have to be the ground truth itself; reading them costs more than it could find.
_LONGEST_ANSWER = 2000
_ASSIGNMENT = re.compile(r"^[A-Za-z](?:_\w|\([A-Za-z]\))?(?:=|\\in(?![a-z])\s*)")
# "Tuesday", "BCA", "noon": compared letter by letter, since SymPy would take them for products.
_WORD = re.compile(r"[A-Za-z]{2,}")
_IN_BASE = re.compile(r"\w+_(?:\d|\{\d+\})")


def verify_math(problem: Problem, text: str) -> Verdict:
    """Judge a response that has passed the format check. May be slow: call it in a judge."""
    _, answer_part = split_response(text)
    answer = find_last_box(answer_part)
    assert answer is not None, "the format check lets no response without a box pass"
    is_correct = is_equal_answer(answer, problem.answer)
    return Verdict(
        format_ok=True,
        correct=is_correct,
        answer=answer,
        reason="" if is_correct else "the answer is not the expected one",
    )


def is_equal_answer(answer: str, gold: str) -> bool:
    """Return whether ``answer`` is provably the same as ``gold``."""
    if len(answer) > _LONGEST_ANSWER:
        return answer == gold
    normal, normal_gold = normalize_answer(answer), normalize_answer(gold)
    if not normal or not normal_gold:
        return False
    if not _names_variable(normal_gold):
        normal = _drop_assignments(normal)
    if not _names_variable(normal):
        normal_gold = _drop_assignments(normal_gold)
    if normal == normal_gold:
        return True
    number, gold_number = _parse_number(normal), _parse_number(normal_gold)
    if number is not None and gold_number is not None:
        return number == gold_number or _is_same_percentage(answer, number, gold, gold_number)
    if _is_verbatim(normal) or _is_verbatim(normal_gold):
        return normal.casefold() == normal_gold.casefold()
    return _is_equal_symbolically(normal, normal_gold)


def find_gold_fault(gold: str) -> str | None:
    """Return why ``gold`` cannot serve as a ground truth, or None if it can."""
    normal = normalize_answer(gold)
    if not normal:
        return "is empty"
    if _parse_number(normal) is not None or _is_verbatim(normal):
        return None
    from megatron_rl.verifiers.symbolic import parse_latex  # late: most answers are numbers

    if parse_latex(normal) is None:
        return f"is neither a number, a word nor LaTeX that can be parsed: {gold!r}"
    return None


def _names_variable(normal: str) -> bool:
    return "=" in normal or bool(_ASSIGNMENT.match(normal))


def _drop_assignments(normal: str) -> str:
    """Turn ``x=2,x=3`` into ``2,3``; leave equations and several variables alone."""
    match = _ASSIGNMENT.match(normal)
    if match is None:
        return normal
    bare = normal.replace(match[0], "")
    return normal if "=" in bare else bare


def _parse_number(normal: str) -> Fraction | None:
    r"""Read an integer, decimal, fraction or mixed number (``2\frac{1}{2}``) exactly."""
    match = _NUMBER.fullmatch(normal)
    if match is None:
        return None
    if match["decimal"]:
        value = Fraction(match["decimal"])
    else:
        numerator, denominator = (
            Fraction(match[name] or match[f"plain_{name}"]) for name in ("num", "den")
        )
        if denominator == 0:
            return None
        value = Fraction(match["whole"].strip() or 0) + numerator / denominator
    return -value if match["sign"] == "-" else value


def _is_same_percentage(answer: str, number: Fraction, gold: str, gold_number: Fraction) -> bool:
    """Return whether one side is a percentage of the value the other side gives plainly."""
    if ("%" in answer) == ("%" in gold):
        return False
    return number == gold_number * 100 if "%" in answer else gold_number == number * 100


def _is_verbatim(normal: str) -> bool:
    return bool(_WORD.fullmatch(normal) or _IN_BASE.fullmatch(normal))


def _is_equal_symbolically(normal: str, normal_gold: str) -> bool:
    from megatron_rl.verifiers.symbolic import is_equal, parse_latex  # late: takes 0.3 s

    gold_expression = parse_latex(normal_gold)
    if gold_expression is None:
        return False
    expression = parse_latex(normal)
    return expression is not None and is_equal(expression, gold_expression)
