"""Records of answers of every kind, as the readers return them."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from megatron_rl.math_answers.text.units import Unit
from megatron_rl.math_answers.tree import Node


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A formula, with a unit or without."""

    formula: Node
    unit: Unit | None = None
    last_place: Fraction | None = None
    """Value of one in the last place of a decimal number; None of exact numbers."""
    num_places: int = 0
    """Decimal places as written, of a decimal number."""
    has_percent: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """Text, without case and macros."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A letter of a multiple choice with its content: "(A) 12"."""

    letter: str
    content: "Answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """Answers in no order: a set, or a list separated by commas, "and" or "or"."""

    items: "tuple[Answer, ...]"
    is_set: bool = False
    """Whether it stood between braces, so that repetitions do not count."""
    has_or: bool = False
    """Whether it offers alternatives, which may be one value in two spellings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ordered:
    """A tuple, a vector or an open or closed interval, which may look the same."""

    items: "tuple[Answer, ...]"
    opening: str = "("
    closing: str = ")"


@dataclass(frozen=True, kw_only=True, slots=True)
class Matrix:
    """Rows of equally many entries."""

    rows: "tuple[tuple[Answer, ...], ...]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """An interval of real numbers; a point has equal, closed ends."""

    low: Node
    high: Node
    is_low_open: bool
    is_high_open: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class RealSet:
    """A union of intervals, and the variable that is stated to lie in it."""

    pieces: tuple[Piece, ...]
    variable: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberSet:
    """Integers, naturals, rationals or complex numbers; reals are a RealSet."""

    name: str
    variable: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """A name and its value: ``x = 5``, ``f(x) = x^2``, ``(x, y) = (1, 2)``."""

    name: str
    value: "Answer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A chain of formulas with a relation between each two of them."""

    sides: tuple[Node, ...]
    relations: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Numeral:
    """Digits in a base that was named."""

    digits: str
    """Behind a minus sign if the number is negative."""
    base: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Residues:
    """Residue classes of one modulus."""

    residues: tuple[Node, ...]
    modulus: Node
    variable: str | None = None
    is_remainder: bool = False
    r"""Whether ``12 \bmod 7`` was written, which is a number, too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Terms such as 1 : 2 : 3."""

    terms: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Clock:
    """Hours and minutes."""

    hour: int
    minute: int
    half: str | None = None
    """Of the day: ``am`` or ``pm``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piecewise:
    """Values, each with the condition it holds under."""

    pieces: "tuple[tuple[Answer, Answer], ...]"


Answer: TypeAlias = (
    Quantity | Words | Choice | Collection | Ordered | Matrix | RealSet | NumberSet | Definition
    | Comparison | Numeral | Residues | Ratio | Clock | Piecewise
)  # fmt: skip
