"""Ten thousand strange responses: none makes grading raise or give no verdict."""

import pytest
from hypothesis import HealthCheck, given, settings

from megatron_rl.types import Problem
from megatron_rl.verifiers.math import verify_math
from tests.unit.verifiers import strange_responses, strange_texts

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

ten_thousand = settings(
    max_examples=10_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@ten_thousand
@given(strange_texts.QUESTIONS, strange_texts.RESPONSES)
def test_grading_raises_nothing(question, response):
    strange_texts.check(question, response)


@ten_thousand
@given(strange_responses.RESPONSES, strange_responses.GOLDS)
def test_the_math_verifier_gives_a_verdict(response, gold):
    verdict = verify_math(Problem(id="a", text="", answer=gold), response)
    assert verdict.correct in (True, False)
