"""Second opinions of the parsers of SymPy and math-verify, where this library cannot read.

The two only parse; SymPy has to prove equality. Both evaluate while they parse: text whose value
could grow is kept from them, and they work under a budget of steps.
"""

import logging
import re
from functools import lru_cache, partial

import sympy

from megatron_rl.math_answers.algebra.step_budget import OutOfSteps, within_steps
from megatron_rl.math_answers.algebra.sympy_proof import try_proof
from megatron_rl.math_answers.readers.answer import MAX_ANSWER_CHARS
from megatron_rl.math_answers.text.normalize import normalize_answer

_MAX_CHARS = 200
_MAX_STEPS = 3_000_000
# Values that may grow, nesting, and words, which grammars take for products.
_DANGEROUS = re.compile(
    r"!|\^\s*\{?[^{}]*\^|\^\s*\{?-?\s*(?:\d{3,}|[^{}\d]*\d{3,})|\d{30,}|(?:[{(\[][^{}()\[\]]*){12,}"
    r"|(?<![\\A-Za-z])[A-Za-z]{4,}|text|mathrm|binom|array|matrix|_\s*\d|[=<>,;]|\\in(?![a-z])"
)
_WORTHWHILE = re.compile(r"\\(?:int|sum|prod|lim|frac|sqrt|log|ln|sin|cos|tan)(?![a-zA-Z])")
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    SyntaxError,
)
# math-verify warns that its own timeouts are off. They need signals; a judge's deadline does not.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def is_equal_by_second_opinion(answer: str, gold: str) -> bool:
    """Return whether another parser reads both and SymPy proves them equal."""
    pair = parse_for_second_opinion(answer), parse_for_second_opinion(gold)
    return pair[0] is not None and pair[1] is not None and try_proof(pair[0], pair[1])


@lru_cache(maxsize=256)
def parse_for_second_opinion(text: str) -> sympy.Expr | None:
    """Return the SymPy expression that another parser takes ``text`` for, or None."""
    if len(text) > min(_MAX_CHARS, MAX_ANSWER_CHARS):
        return None
    latex = normalize_answer(text)
    if _DANGEROUS.search(latex) or not _WORTHWHILE.search(latex):
        return None
    for parse in (_by_lark, _by_math_verify):
        try:
            found = within_steps(_MAX_STEPS, partial(parse, latex))
        except (OutOfSteps, *_FAILURES):
            continue
        if found is not None:
            return found
    return None


def _by_lark(latex: str) -> sympy.Expr | None:
    from lark.exceptions import LarkError
    from sympy.parsing.latex import parse_latex

    try:
        return _usable(parse_latex(latex, backend="lark"))
    except LarkError:
        return None


def _by_math_verify(latex: str) -> sympy.Expr | None:
    from math_verify import LatexExtractionConfig, parse

    found = parse(
        f"${latex}$",
        [LatexExtractionConfig()],
        fallback_mode="no_fallback",
        parsing_timeout=None,
    )
    return _usable(found[0]) if found else None


def _usable(found: object) -> sympy.Expr | None:
    if not isinstance(found, sympy.Expr) or isinstance(found, sympy.Symbol):
        return None
    names = {s: sympy.Symbol(s.name, positive=True) for s in found.free_symbols}
    expression = found.xreplace(names).doit()
    if expression.has(sympy.nan, sympy.zoo, sympy.Float, sympy.Integral, sympy.Limit, sympy.Sum):
        return None
    return expression
