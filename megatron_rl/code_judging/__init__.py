"""Code judging: compiles a solution, runs it on its problem's tests in a sandbox, judges.

Example::

    verify = make_code_verifier(CodeLimits(...))
    verdict = verify(problem, "So:\\n```cpp\\nint main() { ... }\\n```")
"""

import functools

from megatron_rl.code_judging.limits import CodeLimits
from megatron_rl.code_judging.verifier import (
    CodeVerifier,
    make_code_verifier,
    prepare_code_judging,
)
from megatron_rl.config import CodeConfig
from megatron_rl.types import Problem, Verdict

__all__ = [
    "CodeLimits",
    "CodeVerifier",
    "make_code_verifier",
    "prepare_code_judging",
    "verify_code",
]


def verify_code(problem: Problem, text: str) -> Verdict:
    """Judge a response under the default limits; see :class:`CodeVerifier`."""
    return _default_verifier()(problem, text)


@functools.cache
def _default_verifier() -> CodeVerifier:
    return make_code_verifier(CodeLimits(**CodeConfig().model_dump(mode="json")))
