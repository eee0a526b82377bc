r"""Answers as they are asked for: in a box, behind "Answer:", behind "####"."""

import time

import pytest

from megatron_rl.errors import VerifierError
from megatron_rl.types import Problem, Response, Verdict
from megatron_rl.verifiers import verify_response
from megatron_rl.verifiers.answer_formats import find_setting_fault, find_stated_answer
from megatron_rl.verifiers.math import verify_math


def judge(text: str, formats: object, *, gold: str = "34") -> Verdict:
    problem = Problem(id="p", text="?", answer=gold, extra={"answer_format": formats})
    thoughts = "Answer: 34 #### 34 \\boxed{34}"
    response = Response(thoughts=thoughts, answer=text, fault=None)
    return verify_response({"math": verify_math}, problem, response, is_language_asked=False)


@pytest.mark.parametrize(
    "text",
    [
        "Answer: 34",
        "So it is.\nAnswer: 34",
        "answer : 34",
        "**Answer:** 34",
        "**Answer: 34**",
        "The final answer: $34$",
        "Final Answer: $34$.",
        "Answer: \\boxed{34}",
        "Answer:\n34",
        "Answer:\n\n$$\n34\n$$",
        "Answer: \\[\n34\n\\]",
        "Answer: 33\nNo. \nAnswer: 34",
        "> Answer: 34\n\nThat is all.",
        "\\boxed{33}\nAnswer: 34",
    ],
)
def test_an_answer_line_is_right(text):
    verdict = judge(text, "answer_line")
    assert (verdict.format_ok, verdict.correct, verdict.reason) == (True, True, "")


@pytest.mark.parametrize(
    ("text", "formats", "reason"),
    [
        ("\\boxed{34}", "answer_line", 'has no line "Answer: ..." after the thoughts'),
        ("34", "answer_line", "has no line"),
        ("The answer is 34", "answer_line", "has no line"),
        ("Answer:", "answer_line", "has no line"),
        ("Answer: 34", "boxed", "has no \\boxed{} after the thoughts"),
        ("34", ["boxed", "hashes"], 'has no \\boxed{} or line "#### ..." after the thoughts'),
        ("Answer: 34 \\boxed{3", ["answer_line", "boxed"], "has an unfinished last \\boxed{}"),
        ("####\n34", "hashes", "has no line"),
        ("##### 34", "hashes", "has no line"),
    ],
)
def test_an_answer_in_another_form_breaks_the_format(text, formats, reason):
    verdict = judge(text, formats)
    assert not verdict.format_ok and not verdict.correct and not verdict.is_parsable
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("text", "formats", "is_right"),
    [
        ("#### 34", "hashes", True),
        ("It is 2 * 17.\n#### $34", "hashes", True),
        ("#### 33\n#### 34", "hashes", True),
        ("#### 34 #### 35", "hashes", False),
        ("Answer: 35", "answer_line", False),
        ("\\boxed{33}\nAnswer: 34", ["boxed", "answer_line"], True),
        ("Answer: 34\n\\boxed{33}", ["boxed", "answer_line"], False),
        ("#### Result\nIt is \\boxed{34}.", ["boxed", "hashes"], True),
        ("\\boxed{34}", ["boxed"], True),
    ],
)
def test_what_stands_last_counts(text, formats, is_right):
    verdict = judge(text, formats)
    assert verdict.format_ok and verdict.correct is is_right


def test_thoughts_state_no_answer():
    assert not judge("It is clear.", ["boxed", "answer_line", "hashes"]).format_ok


@pytest.mark.parametrize("named", ["box", [], ["boxed", "x"], None, {"boxed": 1}, [1]])
def test_another_name_is_a_fault_of_the_problem(named):
    problem = Problem(id="p", text="?", answer="1", extra={"answer_format": named})
    assert "must be one or a list of boxed, answer_line, hashes" in str(find_setting_fault(problem))
    with pytest.raises(VerifierError, match=r"problem p: its answer_format"):
        verify_math(problem, "\\boxed{1}")


@pytest.mark.parametrize("piece", ["Answer:", "answer:\n", "#### \n", "\\boxed{", "> * ", "**"])
def test_hostile_texts_take_time_linear_in_their_length(piece):
    start_s = time.process_time()
    find_stated_answer(piece * 100_000, ("boxed", "answer_line", "hashes"))
    assert time.process_time() - start_s < 2.0  # some 0.1 s
