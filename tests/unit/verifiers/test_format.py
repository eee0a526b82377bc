"""Well-formed responses, and the faults of others."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.errors import VerifierError
from megatron_rl.thinking import THINK, read_text
from megatron_rl.types import Problem, Response, Verdict
from megatron_rl.verifiers import verify_response
from megatron_rl.verifiers.boxes import find_last_box
from megatron_rl.verifiers.format import find_format_fault, text_for_verifier
from megatron_rl.verifiers.math import verify_math


def verify(problem: Problem, text: str) -> Verdict:
    response = read(text)
    return verify_response({"math": verify_math}, problem, response, is_language_asked=False)


def read(text: str) -> Response:
    return read_text(text, THINK, "unopened")


@pytest.mark.parametrize(
    "text",
    [
        r"<think>a</think>\boxed{1}",
        "<think>\na\n</think>\n\nIt is $\\boxed{1}$.",
        r"<think></think>\boxed{1}",
        r"<think>perhaps \boxed{2}</think>no: \boxed{1}",
        r"<think>a</think>\boxed{}",  # an empty box is a wrong answer, not a broken format
    ],
)
def test_well_formed_responses_have_no_fault(text):
    assert find_format_fault(read(text), kind="math") is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "does not start with <think>"),
        (r"\boxed{1}", "does not start with <think>"),
        (r" <think>a</think>\boxed{1}", "does not start with <think>"),
        ("\n<think>a</think>\\boxed{1}", "does not start with <think>"),
        (r"</think><think>\boxed{1}", "does not start with <think>"),
        (r"<Think>a</Think>\boxed{1}", "does not start with <think>"),
        (r"<think>a \boxed{1}", "has 0 </think> tags"),
        (r"<think><think>a</think>\boxed{1}", "has 2 <think> tags"),
        (r"<think>a</think>b</think>\boxed{1}", "has 2 </think> tags"),
        (r"<think>a</think><think>b</think>\boxed{1}", "has 2 <think> tags"),
        (r"<think>\boxed{1}</think>It is 1.", r"has no \boxed{}"),
        (r"<think>a</think>It is \boxed{1", r"has an unfinished last \boxed{}"),
        (r"<think>a</think>\boxed{1}. No, it is \boxed{2", r"has an unfinished last \boxed{}"),
        (r"<think>a</think>\boxed{1}. No, it is \boxed", r"has an unfinished last \boxed{}"),
        (r"<think>a</think>It is \boxed 1", r"has no \boxed{}"),
    ],
)
def test_every_broken_format_is_refused_with_its_reason(text, fault):
    found = find_format_fault(read(text), kind="math")
    assert found is not None and fault in found


@pytest.mark.parametrize(
    ("answer", "has_block"),
    [
        ("```cpp\nint main() {}\n```", True),
        ("So:\n```python\nprint(1)\n```\nDone.", True),
        ("```\nprint(1)\n```", False),
        ("```python\nprint(1)", False),
        ("print(1)", False),
    ],
)
def test_an_answer_in_code_is_a_block_that_names_its_language(answer, has_block):
    fault = find_format_fault(read(f"<think>a</think>{answer}"), kind="code")
    assert (fault is None) == has_block
    assert find_format_fault(read(f"<think>{answer}</think>"), kind="code") is not None


@given(st.sampled_from([r"\boxed{\frac{1}{2}}", r"\boxed{4}", r"\boxed {\{1\}}"]), st.data())
def test_a_response_cut_off_in_its_last_box_is_not_paid_for_an_earlier_one(box, data):
    problem = Problem(id="a", text="1+1?", answer="2")
    cut = data.draw(st.integers(2, len(box) - 1))
    text = rf"<think>hm</think>It is \boxed{{2}}. Or rather {box[:cut]}"
    assert verify(problem, text.partition(" Or")[0]).correct
    verdict = verify(problem, text)
    assert not (verdict.correct or verdict.format_ok)


def test_nothing_is_graded_when_the_format_is_broken():
    problem = Problem(id="a", text="1+1?", answer="2")
    verdict = verify(problem, r"\boxed{2}")
    assert verdict == Verdict(
        format_ok=False, correct=False, reason="does not start with <think>", is_parsable=False
    )


def test_only_the_answer_part_counts():
    problem = Problem(id="a", text="1+1?", answer="2")
    assert not verify(problem, r"<think>\boxed{2}</think>\boxed{3}").correct
    assert verify(problem, r"<think>\boxed{3}</think>\boxed{2}").correct


def test_a_kind_without_verifier_is_an_error_and_not_a_wrong_answer():
    with pytest.raises(VerifierError, match=r"problem a: .*'chess'.*known: math"):
        verify(Problem(id="a", text="?", answer="e4", kind="chess"), "<think></think>e4")


def test_the_packages_verifiers_get_the_answer_and_a_users_gets_the_whole_response():
    response = Response(thoughts=" a\nb ", answer="\n c ", fault=None)
    assert text_for_verifier(response, kind="math") == "\n c "
    assert text_for_verifier(response, kind="code") == "\n c "
    assert text_for_verifier(response, kind="own") == "<think> a\nb </think>\n c "


def test_a_users_verifier_gets_the_answer_where_no_thoughts_are_asked_for():
    response = Response(thoughts=None, answer="a </think> b", fault=None)
    assert find_format_fault(response, kind="own") is None
    assert text_for_verifier(response, kind="own") == "a </think> b"


@pytest.mark.parametrize(("thoughts", "answer"), [("a<think>", "b"), ("a", "</think>b")])
def test_a_users_verifier_never_meets_a_tag_that_is_not_one(thoughts, answer):
    response = Response(thoughts=thoughts, answer=answer, fault=None)
    fault = find_format_fault(response, kind="own")
    assert fault is not None and "in its thoughts or its answer" in fault
    assert find_format_fault(Response(thoughts="", answer="", fault=None), kind="own") is None


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed {7}", "7"),
        (r"\\boxed{7}", "7"),
        (r"set {1, 2 and \boxed{3}", "3"),
        (r"} } \boxed{3}", "3"),
        (r"\boxed{3} and \boxed{4", None),  # cut off: the earlier one is no answer
        (r"\boxed{3} and \boxed{\frac{1}{2}", None),
        (r"\boxed{3} and \boxed{{4}", None),
        (r"\boxed{3} and \boxed{4\}", None),
        (r"\boxed{3} and \\boxed {", None),
        *((r"\boxed{3} and " + r"\boxed"[:n], None) for n in range(2, 7)),
        (r"\boxed{3} and \\boxed  ", None),
        (r"\boxed{3} and \boxed is the command", "3"),
        (r"\boxed{3} \\", "3"),
        (r"\boxed{3} and {4", "3"),
        (r"\boxed{\frac{1}{2} or \boxed{3}", "3"),  # the last one is finished
        (r"\boxed{[0, 1\}}", r"[0, 1\}"),
        (r"\boxed{", None),
        ("boxed{3}", None),
    ],
)
def test_the_last_box_is_read_if_it_is_finished_with_its_braces(text, inside):
    assert find_last_box(text) == inside


@given(st.text(alphabet="a1\\{} ", max_size=30))
def test_plain_content_survives_the_box_and_no_content_reveals_an_earlier_one(content):
    box = rf"\boxed{{{content}}}"
    found = find_last_box(rf"\boxed{{wrong}} {box}")
    is_plain = content.count("{") == content.count("}") == 0 and "\\" not in content
    assert found != "wrong"
    if is_plain:
        assert found == content.strip()


def test_open_boxes_without_end_cost_linear_time():
    start_s = time.process_time()
    assert find_last_box(r"\boxed{" * 100_000) is None
    assert time.process_time() - start_s < 2.0  # 0.05 s here; quadratic would take an hour


def test_a_blank_that_belongs_to_a_backslash_stays_in_the_box():
    assert find_last_box("\\boxed{5\\ }") == "5\\ "
    assert find_last_box("\\boxed{ 5 }") == "5"
    assert find_last_box("\\boxed{5\\\\ }") == "5\\\\"
