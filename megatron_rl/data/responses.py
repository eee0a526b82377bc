"""Response files to grade: JSON lines of a problem's fields and the response to it.

Examples::

    {"id": "1", "kind": "math", "gold": "2", "response": "<think>...</think>\\boxed{2}",
     "finish_reason": "stop"}
    {"id": "2", "kind": "code", "language": "cpp", "tests": [{"input": "1 2", "output": "3"}],
     "response": "<think>...</think>```cpp ..."}
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from megatron_rl.data.jsonl import read_records, text_field
from megatron_rl.data.problems import check_kind
from megatron_rl.errors import DataError
from megatron_rl.types import Problem, PromptThought

_OWN_FIELDS = (
    *("id", "kind", "gold", "answer", "problem", "response"),
    *("finish_reason", "prompt_thought"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseLine:
    """One response to one problem, not read yet."""

    where: str
    """File and line."""
    id: str | int
    """Id in the file; responses to one problem may share it."""
    problem: Problem
    text: str
    is_truncated: bool
    """Whether the response was cut off: its ``finish_reason`` is "length"."""
    prompt_thought: PromptThought
    """State in which the prompt left the thought."""


def load_responses(path: Path, *, kinds: Collection[str]) -> list[ResponseLine]:
    """Read and check the responses of ``path``, in the order of the file.

    Args:
        path: JSON-lines file.
        kinds: kinds that a verifier exists for.

    Raises:
        DataError: names file, line and fault.
    """
    return [_response(record, where, kinds) for where, record in read_records(path)]


def _response(record: dict[str, Any], where: str, kinds: Collection[str]) -> ResponseLine:
    identity = record["id"] if "id" in record else None
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        raise DataError(f'{where}: the field "id" is needed, a text or a whole number')
    text = record["response"] if "response" in record else None
    if not isinstance(text, str):  # an empty response is a wrong answer, not a fault of the file
        raise DataError(
            f'{where}: the field "response" is needed, a text; found {", ".join(record) or "none"}'
        )
    kind = text_field(record, "kind", where) if "kind" in record else "math"
    problem = Problem(
        id=str(identity),
        text=_optional_text(record, "problem", where),
        answer=_gold(record, kind, where),
        kind=kind,
        extra={name: value for name, value in record.items() if name not in _OWN_FIELDS},
    )
    check_kind(problem, kinds, where)
    return ResponseLine(
        where=where,
        id=identity,
        problem=problem,
        text=text,
        is_truncated=_optional_text(record, "finish_reason", where) == "length",
        prompt_thought=_prompt_thought(record, where),
    )


def _prompt_thought(record: dict[str, Any], where: str) -> PromptThought:
    """Return the state in which the prompt left the thought: unopened if nothing is said."""
    if "prompt_thought" not in record:
        return "unopened"
    state: PromptThought = record["prompt_thought"]
    if state not in get_args(PromptThought):
        known = ", ".join(f'"{name}"' for name in get_args(PromptThought))
        raise DataError(f'{where}: field "prompt_thought" must be one of {known}, got {state!r}')
    return state


def _gold(record: dict[str, Any], kind: str, where: str) -> str:
    """Return the ground truth, called "gold" here or "answer" as in problem files."""
    if "gold" in record and "answer" in record:
        raise DataError(f'{where}: "gold" and "answer" are two names of one field; give one')
    name = "answer" if "answer" in record else "gold"
    return text_field(record, name, where) if kind == "math" or name in record else ""


def _optional_text(record: dict[str, Any], name: str, where: str) -> str:
    if name not in record:
        return ""
    if not isinstance(record[name], str):
        raise DataError(f'{where}: field "{name}" must be text, got {type(record[name]).__name__}')
    text: str = record[name]
    return text
