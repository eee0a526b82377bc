"""The pure part of judging code: which program, which tests, and whether outputs agree."""

import json
import re
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.errors import DataError
from megatron_rl.types import Problem
from megatron_rl.verifiers.code import (
    CodeBlock,
    draw_tests,
    find_code_fault,
    find_first_code,
    find_output_fault,
    read_code_task,
)

DEFAULT_TOLERANCE = 1e-6


def code_problem(id: str = "p", **extra) -> Problem:
    given = {"language": "cpp", "tests": [{"input": "", "output": "1"}], **extra}
    return Problem(id=id, text="?", answer="", kind="code", extra=given)


def program_fault(output: str, expected: str, **extra) -> str | None:
    problem = code_problem(tests=[{"input": "", "output": expected}], **extra)
    task = read_code_task(problem, tolerance=DEFAULT_TOLERANCE)
    return find_output_fault(task, task.tests[0], output)


def function_fault(output: str, expected: object, **extra) -> str | None:
    tests = [{"args": [], "expected": expected}]
    problem = code_problem(language="python", function="f", tests=tests, **extra)
    task = read_code_task(problem, tolerance=DEFAULT_TOLERANCE)
    return find_output_fault(task, task.tests[0], output)


# Which program


def test_the_first_block_that_names_its_language_counts():
    text = "Like\n```\na sketch\n```\nthen\n```python\nprint(1)\n```\nor\n```cpp\nint x;\n```"
    assert find_first_code(text) == CodeBlock(language="python", source="print(1)\n")


@pytest.mark.parametrize("name", ["cpp", "C++", "cxx", "c++20", "cpp title=main.cpp"])
def test_a_language_has_many_names(name: str):
    assert find_first_code(f"```{name}\nint x;\n```").language == "cpp"


@pytest.mark.parametrize("text", ["", "print(1)", "```\nprint(1)\n```", "```python\nprint(1)\n"])
def test_there_is_no_program_without_a_closed_block_that_names_a_language(text: str):
    assert find_first_code(text) is None


def test_a_longer_fence_holds_shorter_ones():
    text = "````python\nx = '''\n```\n'''\n````"
    assert find_first_code(text).source == "x = '''\n```\n'''\n"


def test_a_block_in_a_list_loses_the_list_s_indent_only():
    text = "1. so\n   ```python\n   if x:\n       y()\n   ```"
    assert find_first_code(text).source.rstrip() == "if x:\n    y()"


@given(st.text(alphabet="`~ \n\tpythoncpp+x", max_size=200))
def test_no_text_breaks_the_search(text: str):
    block = find_first_code(text)
    assert block is None or block.language


# Which tests


def numbered_tests(count: int) -> list[dict[str, str]]:
    return [{"input": str(i), "output": str(i)} for i in range(count)]


def drawn(id: str, num_tests: int, count: int = 100) -> list[int]:
    problem = code_problem(id=id, tests=numbered_tests(count))
    task = read_code_task(problem, tolerance=DEFAULT_TOLERANCE)
    return [test.number for test in draw_tests(task, problem.id, num_tests=num_tests)]


def test_a_group_shares_its_tests_and_another_problem_has_others():
    assert drawn("a", 20) == drawn("a", 20) != drawn("b", 20)


def test_the_draw_is_the_same_on_every_machine():
    # Pinned: a change of the draw would change every group of a resumed run.
    assert drawn("a", 3, count=10) == [4, 7, 9]


def test_tests_are_drawn_once_each_and_keep_their_order():
    numbers = drawn("a", 20)
    assert len(set(numbers)) == 20
    assert numbers == sorted(numbers)


def test_few_tests_are_all_used():
    assert drawn("a", 20, count=3) == [1, 2, 3]


# Whether outputs agree


@pytest.mark.parametrize("output", ["1 2\n3", "1 2 3", "  1\t2\n\n3  \n"])
def test_blanks_only_separate(output: str):
    assert program_fault(output, "1 2\n3\n") is None


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("1", "2"),
        ("", "1"),
        ("1 2", "1"),
        ("1", "1 2"),
        ("1.0", "1"),
        ("01", "1"),
        ("Yes", "YES"),
        ("0.5000001", "0.5"),
    ],
)
def test_without_tolerance_every_token_is_compared_as_it_is_written(output: str, expected: str):
    assert program_fault(output, expected) is not None


@pytest.mark.parametrize(
    ("output", "expected", "is_right"),
    [
        ("0.3333333", "0.33333333333", True),  # 3e-8 away
        ("0.33333", "0.33333333333", False),  # 3e-6 away
        ("1000000.5", "1000000.0", True),  # 5e-7 of a million
        ("1000002.0", "1000000.0", False),  # 2e-6 of a million
        ("1000001", "1000000", False),  # both whole: nothing is measured
        ("1000000.5", "1000000", False),  # a whole number is not relative
        ("3.0000001", "3", True),
        ("+7", "7", True),
        ("1e-9", "0.0", True),
        ("nan", "0.0", False),
        ("inf", "1.0", False),
        ("YES 0.50000001", "YES 0.5", True),
        ("NO 0.5", "YES 0.5", False),
    ],
)
def test_tolerance_is_for_decimals(output: str, expected: str, is_right: bool):
    assert (program_fault(output, expected, tolerance=True) is None) == is_right


def test_a_problem_s_own_tolerance_wins():
    assert program_fault("0.51", "0.5", tolerance=0.1) is None
    assert program_fault("0.51", "0.5", tolerance=0.001) is not None


@pytest.mark.parametrize(
    ("output", "expected", "is_right"),
    [
        ("[1, 2]", [1, 2], True),
        ("[2, 1]", [1, 2], False),
        ("1.0", 1, True),
        ("true", 1, False),
        ("1", True, False),
        ("null", None, True),
        ('{"b": [1], "a": 2}', {"a": 2, "b": [1]}, True),
        ('{"a": 2}', {"a": 2, "b": 1}, False),
        ('"a"', "a", True),
        ("", "", False),  # it printed nothing at all
        ("not json", "not json", False),
        ("[" * 100_000, [], False),
        ("1" * 400, 1.5, False),  # beyond all floats
    ],
)
def test_a_function_s_result_is_compared_as_json(output: str, expected: object, is_right: bool):
    assert (function_fault(output, expected) is None) == is_right
    assert (function_fault(output, expected, tolerance=True) is None) == is_right


def test_a_function_s_decimals_have_the_tolerance_at_any_depth():
    assert function_fault('{"a": [0.3333333333]}', {"a": [1 / 3]}, tolerance=True) is None
    assert function_fault('{"a": [0.3333333333]}', {"a": [1 / 3]}) is not None


@given(st.text(max_size=50), st.text(max_size=50))
def test_outputs_agree_exactly_when_their_tokens_do(output: str, expected: str):
    assert (program_fault(output, expected) is None) == (output.split() == expected.split())


@pytest.mark.lengthy
def test_a_flood_of_tokens_is_compared_in_little_memory():
    flood = "12 34 " * 500_000
    tracemalloc.start()
    assert program_fault(flood, "12 34 12") == "1000000 tokens, expected 3"
    assert program_fault(flood, "12 34 34") == "token 3 is '12', expected '34'"
    assert function_fault("[" + "{}," * 700_000 + "{}]", [1]) is not None
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10 << 20  # a list of the tokens takes 60 MB, the objects 50


def test_a_result_that_is_laid_out_widely_is_still_right():
    values = list(range(1000))
    assert function_fault(json.dumps(values, indent=30), values) is None


@given(st.text(max_size=80))
def test_no_output_breaks_the_comparison(output: str):
    program_fault(output, "1.5 nan", tolerance=True)
    function_fault(output, {"a": [1.5]}, tolerance=True)


# What a problem must say


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ({"language": "rust"}, 'language "rust" is none of cpp, python'),
        ({"language": 3}, '"language" of the problem must be str, got int'),
        ({"tests": []}, "tests are empty"),
        ({"tests": {}}, '"tests" of the problem must be list, got dict'),
        ({"tests": [{"input": "1"}]}, 'test 1 has no "output"'),
        ({"tests": [{"input": 1, "output": "1"}]}, '"input" of test 1 must be str, got int'),
        ({"tests": ["1"]}, 'test 1 has no "input"'),
        ({"function": "f"}, "a function can be tested in python only"),
        ({"language": "python", "function": "f()"}, 'function "f()" is not a name'),
        ({"language": "python", "function": "f"}, 'test 1 has no "args"'),
        (
            {"language": "python", "function": "f", "tests": [{"args": [1]}]},
            'test 1 has no "expected"',
        ),
        ({"tolerance": 2}, "tolerance (2) must be true or a number between 0 and 1"),
        ({"tolerance": "1e-6"}, "tolerance ('1e-6') must be true or a number"),
    ],
)
def test_a_malformed_problem_is_told_what_is_wrong(extra: dict, fault: str):
    problem = code_problem(**extra)
    assert fault in find_code_fault(problem)
    with pytest.raises(DataError, match=re.escape(fault)):
        read_code_task(problem, tolerance=DEFAULT_TOLERANCE)


def test_a_problem_without_tests_is_malformed():
    problem = Problem(id="p", text="?", answer="", kind="code", extra={"language": "cpp"})
    assert find_code_fault(problem) == 'the problem has no "tests"'


def test_a_sound_problem_has_no_fault():
    assert find_code_fault(code_problem()) is None
