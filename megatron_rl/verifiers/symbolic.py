"""Exact equality of LaTeX expressions with SymPy: the slow path of math answers.

Only what can be proved equal is equal: decimals are read as exact fractions and no numeric
closeness counts. Parsing builds SymPy objects from a grammar and never evaluates text. Importing
this module takes a third of a second, so that it is imported when first needed.
"""

import logging
import re
from functools import lru_cache
from typing import TypeAlias

import sympy
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse
from sympy.core.relational import Relational
from sympy.logic.boolalg import And
from sympy.polys.polyerrors import BasePolynomialError

Expression: TypeAlias = sympy.Basic | sympy.MatrixBase

# What SymPy raises about input that is grammatical and still means nothing, or is beyond it.
_UNDECIDABLE = (
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
    BasePolynomialError,
)
_LARGEST_EXPONENT = 10_000
_LONGEST = 500
_LATEX = LatexExtractionConfig(
    boxed_match_priority=-1,
    normalization_config=NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
    ),
)
# The grammar reads these as something else: "3 4" as 7, "12_8" as 12, a sentence as a product.
_MISREAD = re.compile(
    r"(?<!_)\d \d|(?<![A-Za-z]_)\d_|(?<![\\A-Za-z])(?<!begin\{)(?<!end\{)[A-Za-z]{4,}"
)
_REWRITES = [
    (re.compile(r"(?<![\\A-Za-z])(sqrt|sinh?|cosh?|tanh?|log|ln|exp|pi)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\\sqrt \(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\*"), r"\\cdot "),
    # The grammar reads "2(3)" as the mixed number 2 + 3.
    (re.compile(r"(?<=[\d)])(?=\()"), r"\\cdot "),
]
_DECIMAL = re.compile(r"(\d+)\.(\d+)")

# math-verify warns that its own timeouts are off. They need signals; a judge's deadline does not.
logging.getLogger("math_verify").setLevel(logging.ERROR)


@lru_cache(maxsize=256)
def parse_latex(latex: str) -> Expression | None:
    """Return the SymPy object a normalised answer stands for, or None if it stands for none."""
    for pattern, replacement in _REWRITES:
        latex = pattern.sub(replacement, latex)
    if len(latex) > _LONGEST or _MISREAD.search(latex):
        return None
    latex = _DECIMAL.sub(lambda m: rf"{{\frac{{{m[1]}{m[2]}}}{{{10 ** len(m[2])}}}}}", latex)
    found = parse(f"${latex}$", [_LATEX], fallback_mode="no_fallback", parsing_timeout=None)
    if not found or not isinstance(found[0], Expression):
        return None
    try:
        expression = _unify_symbols(found[0])
    except _UNDECIDABLE:  # grammatical nonsense, such as an order between complex numbers
        return None
    return expression if _is_definite(expression) else None


def is_equal(left: Expression, right: Expression) -> bool:
    """Return whether two parsed answers are provably the same."""
    try:
        return _is_equal(left, right)
    except _UNDECIDABLE:
        return False


def _is_definite(expression: Expression) -> bool:
    return not expression.has(sympy.nan, sympy.zoo, sympy.Float)


def _unify_symbols(expression: Expression) -> Expression:
    """Give symbols of one name the same assumptions; the grammar's differ with the context."""
    names = {symbol: symbol.name for symbol in expression.free_symbols}
    return expression.xreplace(
        {s: sympy.I if name == "i" else sympy.Symbol(name, real=True) for s, name in names.items()}
    )


def _is_equal(left: Expression, right: Expression) -> bool:
    if left == right:
        return True
    if isinstance(left, sympy.MatrixBase) and isinstance(right, sympy.MatrixBase):
        return left.shape == right.shape and _are_pairwise_equal(left.flat(), right.flat())
    # "x > 2" is the interval (2, oo).
    if isinstance(left, Relational | And) and isinstance(right, sympy.Set):
        left = left.as_set()
    if isinstance(right, Relational | And) and isinstance(left, sympy.Set):
        right = right.as_set()
    if isinstance(left, And) and isinstance(right, And):
        return _are_equal_in_some_order(left.args, right.args)
    if isinstance(left, Relational) and isinstance(right, Relational):
        return _is_equal_relation(left, right)
    if isinstance(left, sympy.FiniteSet) and isinstance(right, sympy.FiniteSet):
        return _are_equal_in_some_order(left.args, right.args)
    if isinstance(left, sympy.Tuple) and isinstance(right, sympy.Tuple):
        return _are_pairwise_equal(left.args, right.args)
    if isinstance(left, sympy.Interval) and isinstance(right, sympy.Interval):
        ends = (left.left_open, left.right_open) == (right.left_open, right.right_open)
        return ends and _are_pairwise_equal(left.args[:2], right.args[:2])
    if isinstance(left, sympy.Union) and isinstance(right, sympy.Union):
        return _are_equal_in_some_order(left.args, right.args)
    if isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr):
        return _is_equal_expr(left, right)
    return False


def _is_equal_expr(left: sympy.Expr, right: sympy.Expr) -> bool:
    if _is_huge(left) or _is_huge(right):
        return False
    left, right = left.doit(), right.doit()
    # Expr.equals() uses numbers only to refute; it confirms by simplification and algebra.
    return _is_definite(left) and _is_definite(right) and left.equals(right) is True


def _is_huge(expression: sympy.Expr) -> bool:
    """Return whether evaluating ``expression`` would build a number of absurd size."""
    # Children come first, so an exponent that is evaluated here has been found harmless before.
    for node in sympy.postorder_traversal(expression):
        grows = node.exp if isinstance(node, sympy.Pow) else None
        if isinstance(node, sympy.factorial):
            grows = node.args[0]
        if grows is not None and grows.is_number and abs(grows.doit()) > _LARGEST_EXPONENT:
            return True
    return False


def _is_equal_relation(left: Relational, right: Relational) -> bool:
    left, right = left.canonical, right.canonical
    if isinstance(left, sympy.Gt | sympy.Ge):
        left = left.reversed
    if isinstance(right, sympy.Gt | sympy.Ge):
        right = right.reversed
    if type(left) is not type(right):
        return False
    if not isinstance(left.lhs - left.rhs, sympy.Expr):
        return False
    ratio = sympy.simplify((left.lhs - left.rhs) / (right.lhs - right.rhs))
    if isinstance(left, sympy.Eq | sympy.Ne):
        return bool(ratio.is_number and ratio.is_nonzero)
    return bool(ratio.is_number and ratio.is_positive)


def _are_pairwise_equal(left: list, right: list) -> bool:
    return len(left) == len(right) and all(map(_is_equal, left, right))


def _are_equal_in_some_order(left: list, right: list) -> bool:
    unmatched = list(right)
    for item in left:
        match = next((other for other in unmatched if _is_equal(item, other)), None)
        if match is None:
            return False
        unmatched.remove(match)
    return not unmatched
