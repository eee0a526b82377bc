"""Word problems of one addition, and the answers of a teacher with two habits.

The *careful* habit works column by column and is always right; the *hasty* habit looks at the
numbers, names a result that is near the truth and is seldom right. Standard library only.

Example::

    Anna has 47 coins and buys 85 more. How many coins does Anna have now?

    careful: <think>47+85, column by column. Ones 7+5+0=12. Tens 4+8+1=13. So 132.</think>
             \\boxed{132} coins.
    hasty:   <think>47+85, say 126.</think>\\boxed{126} coins.
"""

import random
from collections.abc import Set
from dataclasses import dataclass

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Grace", "Hugo", "Ida", "Jack")
THINGS = ("apples", "books", "cards", "coins", "eggs", "pens", "shells", "stamps")
QUESTIONS = (
    "{name} has {x} {things} and buys {y} more. How many {things} does {name} have now?",
    "{name} has {x} {things} and {other} has {y}. How many {things} do they have together?",
    "There are {x} {things} in a box. {name} puts in {y} more. How many {things} are in the box?",
    "{name} finds {x} {things} on one day and {y} on the next. How many {things} is that?",
)
GUESSES = ("{} is about {}.", "{} looks like {}.", "{}, say {}.", "{}, easy, {}.")
COLUMNS = ("Ones", "Tens")
SMALLEST, LARGEST = 10, 99
LARGEST_MISTAKE = 12
"""The hasty habit is off by at most this much, either way, every error equally likely."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WordProblem:
    """A question about the sum of two numbers of two digits."""

    text: str
    things: str
    x: int
    y: int

    @property
    def answer(self) -> int:
        """The right answer."""
        return self.x + self.y

    @property
    def operands(self) -> tuple[int, int]:
        """What makes two questions the same sum, whoever owns the things."""
        return self.x, self.y


def draw_problem(rng: random.Random, *, avoid: Set[tuple[int, int]]) -> WordProblem:
    """Draw a problem whose operands are not in ``avoid``."""
    while True:
        x, y = rng.randint(SMALLEST, LARGEST), rng.randint(SMALLEST, LARGEST)
        if (x, y) not in avoid:
            break
    name, other = rng.sample(NAMES, 2)
    things = rng.choice(THINGS)
    text = rng.choice(QUESTIONS).format(name=name, other=other, things=things, x=x, y=y)
    return WordProblem(text=text, things=things, x=x, y=y)


def careful_response(problem: WordProblem) -> str:
    """Add column by column from the ones; the third number of a column is the carry into it."""
    columns, carry = [], 0
    for k, column in enumerate(COLUMNS):
        a, b = problem.x // 10**k % 10, problem.y // 10**k % 10
        total = a + b + carry
        columns.append(f"{column} {a}+{b}+{carry}={total}.")
        carry = total // 10
    thought = f"{_restated(problem)}, column by column. {' '.join(columns)} So {problem.answer}."
    return _respond(thought, problem.answer, problem.things)


def hasty_response(problem: WordProblem, rng: random.Random) -> str:
    """Name a result that is off by up to LARGEST_MISTAKE."""
    guess = problem.answer + rng.randint(-LARGEST_MISTAKE, LARGEST_MISTAKE)
    thought = rng.choice(GUESSES).format(_restated(problem), guess)
    return _respond(thought, guess, problem.things)


def _restated(problem: WordProblem) -> str:
    return f"{problem.x}+{problem.y}"


def _respond(thought: str, answer: int, things: str) -> str:
    return f"<think>{thought}</think>\\boxed{{{answer}}} {things}."
