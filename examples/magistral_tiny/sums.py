"""Sums of two numbers of two to four digits, and the answers of a teacher with two habits.

The *careful* habit adds column by column and is always right; the *hasty* habit names a result
that is near the truth and is seldom right. The more digits, the longer the careful thought:
problems that are harder need longer ones. Standard library only.

Example, three digits::

    Anna has 473 coins and buys 859 more. How many coins does Anna have now?

    careful: <think>473+859, column by column. Ones 3+9+0=12. Tens 7+5+1=13. Hundreds 4+8+1=13.
             So 1332.</think>\\boxed{1332} coins.
    hasty:   <think>473+859, say 1327.</think>\\boxed{1327} coins.
"""

import random
from collections.abc import Set
from dataclasses import dataclass

DIGITS = (2, 3, 4)
NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps")
QUESTIONS = (
    "{name} has {x} {things} and buys {y} more. How many {things} does {name} have now?",
    "There are {x} {things} in a box. {name} puts in {y} more. How many {things} are in the box?",
)
GUESSES = ("{} is about {}.", "{} looks like {}.", "{}, say {}.", "{}, easy, {}.")
COLUMNS = ("Ones", "Tens", "Hundreds", "Thousands")
LARGEST_MISTAKE = 12
"""The hasty habit is off by at most this much, either way, every error equally likely."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sum:
    """A question about the sum of two numbers."""

    text: str
    things: str
    x: int
    y: int
    digits: int

    @property
    def answer(self) -> int:
        """The right answer."""
        return self.x + self.y

    @property
    def operands(self) -> tuple[int, int]:
        """What makes two questions the same sum, whoever owns the things."""
        return self.x, self.y


def draw_sum(rng: random.Random, digits: int, *, avoid: Set[tuple[int, int]]) -> Sum:
    """Draw a sum of two numbers of so many digits, whose operands are not in ``avoid``."""
    least, most = 10 ** (digits - 1), 10**digits - 1
    while True:
        x, y = rng.randint(least, most), rng.randint(least, most)
        if (x, y) not in avoid:
            break
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    text = rng.choice(QUESTIONS).format(name=name, things=things, x=x, y=y)
    return Sum(text=text, things=things, x=x, y=y, digits=digits)


def careful_response(problem: Sum) -> str:
    """Add column by column from the ones; the third number of a column is the carry into it."""
    columns, carry = [], 0
    for k in range(problem.digits):
        a, b = problem.x // 10**k % 10, problem.y // 10**k % 10
        total = a + b + carry
        columns.append(f"{COLUMNS[k]} {a}+{b}+{carry}={total}.")
        carry = total // 10
    thought = f"{problem.x}+{problem.y}, column by column. {' '.join(columns)} So {problem.answer}."
    return _respond(thought, problem.answer, problem.things)


def hasty_response(problem: Sum, rng: random.Random) -> str:
    """Name a result that is off by up to LARGEST_MISTAKE."""
    guess = problem.answer + rng.randint(-LARGEST_MISTAKE, LARGEST_MISTAKE)
    thought = rng.choice(GUESSES).format(f"{problem.x}+{problem.y}", guess)
    return _respond(thought, guess, problem.things)


def _respond(thought: str, answer: int, things: str) -> str:
    return f"<think>{thought}</think>\\boxed{{{answer}}} {things}."
