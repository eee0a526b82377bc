"""Problem files: JSON lines of {"id", "problem", "answer"[, "kind"]}.

Example::

    {"id": "aime-1", "problem": "What is 1 + 1? Put the answer in \\boxed{}.", "answer": "2"}
"""

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from megatron_rl.data.jsonl import read_records, text_field
from megatron_rl.errors import DataError
from megatron_rl.types import Problem


def load_problems(
    path: Path,
    *,
    kinds: Collection[str] | None = None,
    check_answer: Callable[[Problem], str | None] | None = None,
) -> list[Problem]:
    """Read and check the problems of ``path``, in the order of the file.

    Args:
        path: JSON-lines file.
        kinds: kinds that a verifier exists for; None accepts any.
        check_answer: says why a verifier could never accept a problem's gold answer, None when it
            could; not asked when None.

    Raises:
        DataError: names file, line and fault.
    """
    problems: list[Problem] = []
    first_seen: dict[str, str] = {}
    for where, record in read_records(path):
        problem = _problem(record, where)
        if problem.id in first_seen:
            raise DataError(f'{where}: id "{problem.id}" is taken by {first_seen[problem.id]}')
        first_seen[problem.id] = where
        if kinds is not None and problem.kind not in kinds:
            known = ", ".join(sorted(kinds))
            raise DataError(f'{where}: unknown kind "{problem.kind}"; known kinds: {known}')
        fault = None if check_answer is None else check_answer(problem)
        if fault is not None:
            raise DataError(f'{where}: answer of "{problem.id}" cannot be verified: {fault}')
        problems.append(problem)
    return problems


def _problem(record: dict[str, Any], where: str) -> Problem:
    problem = Problem(
        id=text_field(record, "id", where),
        text=text_field(record, "problem", where),
        answer=text_field(record, "answer", where),
    )
    if "kind" not in record:
        return problem
    return dataclasses.replace(problem, kind=text_field(record, "kind", where))
