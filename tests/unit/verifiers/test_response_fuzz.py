"""Strange responses make no verifier raise; tests/system has ten thousand of them."""

import pytest
from hypothesis import given, settings

from megatron_rl.verifiers.language import classify, is_one_language
from tests.unit.verifiers.strange_texts import QUESTIONS, RESPONSES, check

pytestmark = pytest.mark.lengthy

PROSE = "Let us think about the sum of all digits of the number."


@settings(max_examples=300)
@given(QUESTIONS, RESPONSES)
def test_no_response_makes_grading_raise(question, response):
    check(question, response)


@pytest.mark.parametrize("half", ["\ud800", "\udfff", "\udcff"])
def test_half_of_a_surrogate_pair_is_no_language_and_no_error(half):
    assert classify(PROSE + half) == "en"
    assert is_one_language(PROSE, half + PROSE, PROSE)
