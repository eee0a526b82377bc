"""Verifiers by kind of problem. Pure functions, but slow on hostile input: call them in a judge."""

from megatron_rl.errors import VerifierError
from megatron_rl.protocols import Verifier
from megatron_rl.types import Problem, Verdict
from megatron_rl.verifiers.format import find_format_fault
from megatron_rl.verifiers.math import verify_math

VERIFIERS: dict[str, Verifier] = {"math": verify_math}
"""Judges of well-formed responses."""


def verify(problem: Problem, text: str) -> Verdict:
    """Judge a response: its format first and, only if that holds, its answer.

    Raises:
        VerifierError: no verifier judges problems of this kind.
    """
    if problem.kind not in VERIFIERS:
        raise VerifierError(
            f"problem {problem.id}: no verifier for kind {problem.kind!r}; "
            f"known: {', '.join(sorted(VERIFIERS))}"
        )
    fault = find_format_fault(text, kind=problem.kind)
    if fault is not None:
        return Verdict(format_ok=False, correct=False, reason=fault)
    return VERIFIERS[problem.kind](problem, text)
