"""Verifiers by kind of problem. Pure functions, but slow on hostile input: call them in a judge."""

import dataclasses
from collections.abc import Mapping

from megatron_rl.errors import VerifierError
from megatron_rl.protocols import Verifier
from megatron_rl.types import Problem, Response, Verdict
from megatron_rl.verifiers.answer_formats import formats_of
from megatron_rl.verifiers.format import find_format_fault, text_for_verifier


def verify_response(
    verifiers: Mapping[str, Verifier],
    problem: Problem,
    response: Response,
    *,
    is_language_asked: bool,
) -> Verdict:
    """Judge a response: its format first and, only if that holds, its answer and its language.

    Args:
        verifiers: verifiers of well-formed responses, by kind.
        problem: the problem.
        response: the response as read.
        is_language_asked: compare the languages of problem, thoughts and answer.

    Raises:
        VerifierError: no verifier judges problems of this kind, or it returns no verdict.
    """
    if problem.kind not in verifiers:
        known = ", ".join(sorted(verifiers))
        raise VerifierError(
            f"problem {problem.id}: no verifier for kind {problem.kind!r}; known: {known}"
        )
    formats = formats_of(problem) if problem.kind == "math" else ()
    fault = find_format_fault(response, kind=problem.kind, answer_formats=formats)
    if fault is not None:
        return Verdict(format_ok=False, correct=False, reason=fault, is_parsable=False)
    verdict = verifiers[problem.kind](problem, text_for_verifier(response, kind=problem.kind))
    if not isinstance(verdict, Verdict):
        raise VerifierError(
            f"problem {problem.id}: the verifier of kind {problem.kind!r} returned "
            f"{type(verdict).__name__}, not a megatron_rl.types.Verdict"
        )
    if not is_language_asked or not verdict.format_ok:
        return verdict
    from megatron_rl.verifiers.language import (
        is_one_language,
    )  # late: not every run needs the language model

    thoughts = "" if response.thoughts is None else response.thoughts
    language_ok = is_one_language(problem.text, thoughts, response.answer)
    return dataclasses.replace(verdict, language_ok=language_ok)
