"""Faults of an answer, which people read as sentences."""

import ast
from pathlib import Path

import pytest

from megatron_rl import math_answers
from megatron_rl.math_answers import find_gold_fault, find_reading_fault
from megatron_rl.types import Problem
from megatron_rl.verifiers.math import verify_math

FILES = sorted(Path(math_answers.__file__).parent.rglob("*.py"))
VERBS = {"is", "has", "ends", "calculates"}


def messages_of(path: Path) -> list[str]:
    """Return how each message of an Unreadable begins."""
    calls = [
        node.args[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Unreadable"
    ]
    messages = []
    for call in calls:
        for part in (call.body, call.orelse) if isinstance(call, ast.IfExp) else (call,):
            first = part.values[0] if isinstance(part, ast.JoinedStr) else part
            assert isinstance(first, ast.Constant), f"{path}:{part.lineno} begins with a value"
            messages.append(first.value)
    return messages


def test_every_message_of_the_reader_is_a_predicate():
    messages = [(path.name, message) for path in FILES for message in messages_of(path)]
    assert len(messages) > 60
    assert not [found for found in messages if found[1].split()[0] not in VERBS]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2^", "ends too early"),
        ("^2", "has an unexpected '^'"),
        ("1:0", "is a ratio with a term of zero"),
        (r"5 \foo 6", r"has an unknown command, \foo"),
        ("102_2", "has a digit that the base does not have"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(text, sentence):
    fault = find_reading_fault(text, with_second_opinions=False)
    assert fault == f"cannot be parsed: it {sentence}"


def test_a_gold_without_a_value_says_why():
    assert find_gold_fault("1/0") == ("cannot be parsed: it has no value (division by zero): '1/0'")


def test_the_verdict_on_an_unreadable_answer_is_a_sentence():
    verdict = verify_math(Problem(id="a", text="?", answer="2"), r"\boxed{^2}")
    assert verdict.reason == "the answer cannot be parsed: it has an unexpected '^'"
