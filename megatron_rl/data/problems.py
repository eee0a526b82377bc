"""Problem files: JSON lines of {"id", "problem", "answer"[, "kind"]} and what else a kind needs.

Examples::

    {"id": "aime-1", "problem": "What is 1 + 1? Put the answer in \\boxed{}.", "answer": "2"}
    {"id": "sum", "problem": "Print the sum ...", "kind": "code", "language": "cpp",
     "tests": [{"input": "1 2", "output": "3"}]}
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from megatron_rl.data.jsonl import read_records, text_field
from megatron_rl.errors import DataError
from megatron_rl.types import Problem

CheckFn = Callable[[Sequence[Problem]], Sequence[str | None]]
"""Returns for each problem why no response could be judged right, None if one could."""

_MAX_FAULTS_SHOWN = 10
_OWN_FIELDS = ("id", "problem", "answer", "kind")


def load_problems(
    path: Path,
    *,
    kinds: Collection[str] | None = None,
    check: CheckFn | None = None,
) -> list[Problem]:
    """Read and check the problems of ``path``, in the order of the file.

    Fields that the package does not know are kept in ``Problem.extra``.

    Args:
        path: JSON-lines file.
        kinds: kinds that a verifier exists for; None accepts any.
        check: asked about all problems at once when not None.

    Raises:
        DataError: names file, line and fault; of faults that ``check`` finds, the first ten.
    """
    problems: list[Problem] = []
    places: list[str] = []
    first_seen: dict[str, str] = {}
    for where, record in read_records(path):
        problem = _problem(record, where)
        if problem.id in first_seen:
            raise DataError(f'{where}: id "{problem.id}" is taken by {first_seen[problem.id]}')
        first_seen[problem.id] = where
        check_kind(problem, kinds, where)
        problems.append(problem)
        places.append(where)
    if check is not None:
        raise_faults(places, check(problems))
    return problems


def check_kind(problem: Problem, kinds: Collection[str] | None, where: str) -> None:
    """Raise DataError unless a verifier exists for the problem."""
    if kinds is not None and problem.kind not in kinds:
        known = ", ".join(sorted(kinds))
        raise DataError(f'{where}: unknown kind "{problem.kind}"; known kinds: {known}')


def raise_faults(places: Sequence[str], faults: Sequence[str | None]) -> None:
    """Raise DataError naming the first faults, if any; both sequences are equally long."""
    found = [f"{where}: {fault}" for where, fault in zip(places, faults, strict=True) if fault]
    if not found:
        return
    left_out = len(found) - _MAX_FAULTS_SHOWN
    more = [f"and {left_out} more"] if left_out > 0 else []
    raise DataError("\n".join([*found[:_MAX_FAULTS_SHOWN], *more]))


def _problem(record: dict[str, Any], where: str) -> Problem:
    kind = text_field(record, "kind", where) if "kind" in record else "math"
    # Only math surely needs an answer; a verifier of the user's own checks its own fields.
    has_answer = kind == "math" or "answer" in record
    return Problem(
        id=text_field(record, "id", where),
        text=text_field(record, "problem", where),
        answer=text_field(record, "answer", where) if has_answer else "",
        kind=kind,
        extra={name: value for name, value in record.items() if name not in _OWN_FIELDS},
    )
