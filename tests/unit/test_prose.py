"""First lines of module docstrings: they name the thing, they do not ask a riddle."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "megatron_rl"
RIDDLES = {"what", "which", "whether", "where", "who", "whoever", "how", "when"}


def is_riddle(line: str) -> bool:
    return line.split()[0].strip("\"',.:;`").lower() in RIDDLES


def test_no_first_line_is_a_riddle():
    riddles = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, f"{path} has no docstring"
        line = docstring.splitlines()[0]
        if is_riddle(line):
            riddles[str(path.relative_to(PACKAGE))] = line
    assert riddles == {}, "say what the thing is: a noun phrase, or an imperative for a verb"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Who gets a worker next.", True),
        ("whether: a server answers.", True),
        ("Two-lane priority queue for verifier workers.", False),
        ("Whole numbers.", False),
    ],
)
def test_a_riddle_is_told_by_its_first_word(line: str, expected: bool):
    assert is_riddle(line) is expected
