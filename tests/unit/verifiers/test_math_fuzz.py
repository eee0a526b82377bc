"""Strange responses do not make the math verifier raise; tests/system has ten thousand of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_rl.thinking import THINK, read_text
from megatron_rl.types import Problem
from megatron_rl.verifiers import verify_response
from megatron_rl.verifiers.math import verify_math
from tests.unit.verifiers.strange_responses import GOLDS, RESPONSES

pytestmark = pytest.mark.lengthy


@settings(max_examples=200, deadline=None, derandomize=True)
@given(RESPONSES, GOLDS)
def test_no_response_makes_the_verifier_raise(response, gold):
    verdict = verify_math(Problem(id="a", text="", answer=gold), response)
    assert verdict.correct in (True, False)


# Lone surrogates included: a tokenizer may be made to emit them.
_PROSE = st.text(alphabet=st.one_of(st.characters(), st.just("\ud800")), max_size=60)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(_PROSE, _PROSE, RESPONSES)
def test_no_response_makes_format_answer_and_language_raise(asked, thoughts, response):
    asked = f"Find the sum of all digits of the number. {asked}"
    text = f"<think>{thoughts}</think>{response.rpartition('</think>')[2]}"
    verdict = verify_response(
        {"math": verify_math},
        Problem(id="a", text=asked, answer="5"),
        read_text(text, THINK, "unopened"),
        is_language_asked=True,
    )
    assert verdict.correct in (True, False)
