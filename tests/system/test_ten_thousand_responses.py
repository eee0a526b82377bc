"""Ten thousand strange responses: none makes grading raise or give no verdict."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.unit.verifiers.strange_texts import QUESTIONS, RESPONSES, check


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(
    max_examples=10_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(QUESTIONS, RESPONSES)
def test_ten_thousand_responses_raise_nothing(question, response):
    check(question, response)
