"""Strange responses do not make the math verifier raise; tests/system has ten thousand of them."""

from hypothesis import given, settings

from megatron_rl.types import Problem
from megatron_rl.verifiers.math import verify_math
from tests.unit.verifiers.strange_responses import GOLDS, RESPONSES


@settings(max_examples=200, deadline=None, derandomize=True)
@given(RESPONSES, GOLDS)
def test_no_response_makes_the_verifier_raise(response, gold):
    verdict = verify_math(Problem(id="a", text="", answer=gold), response)
    assert verdict.correct in (True, False)
