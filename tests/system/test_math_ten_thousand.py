"""Ten thousand strange responses: none makes the math verifier raise or give no verdict."""

import pytest
from hypothesis import HealthCheck, given, settings

from megatron_rl.types import Problem
from megatron_rl.verifiers.math import verify_math
from tests.unit.verifiers.strange_responses import GOLDS, RESPONSES


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(
    max_examples=10_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(RESPONSES, GOLDS)
def test_ten_thousand_responses_raise_nothing(response, gold):
    verdict = verify_math(Problem(id="a", text="", answer=gold), response)
    assert verdict.correct in (True, False)
