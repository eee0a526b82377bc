r"""Problems of a file: what a record asks, its right answer, and what else its kind needs.

Examples of the package's own form::

    {"id": "aime-1", "problem": "What is 1 + 1? Put the answer in \boxed{}.", "answer": "2"}
    {"id": "sum", "problem": "Print the sum ...", "kind": "code", "language": "cpp",
     "tests": [{"input": "1 2", "output": "3"}]}
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_rl.config.columns import ColumnNames
from megatron_rl.data.chat_messages import (
    Message,
    last_user_text,
    read_messages,
    whole_text,
    with_suffix,
)
from megatron_rl.data.fields import MISSING, find_field, missing_field, text_of
from megatron_rl.data.requested_format import requested_formats
from megatron_rl.errors import DataError
from megatron_rl.types import Problem

MAX_FAULTS_SHOWN = 10
"""Faults of a file that are worded."""

_ID_BYTES = 8
_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemRow:
    """A problem as a file has it."""

    problem: Problem
    messages: tuple[Message, ...] | None
    """What is asked, where that is a chat; else it is the problem's text."""
    content: bytes
    """Digest of question, answer and kind (for other kinds than math also of the extra fields)."""
    has_own_id: bool
    """Whether the id is the row's; else it is the digest in hexadecimal digits."""
    says_format: bool
    """Whether the text says how to write the answer; true where the format is not taken from it."""

    @property
    def asked(self) -> str | Sequence[Message]:
        """What the prompt is made of."""
        return self.problem.text if self.messages is None else self.messages


def read_problem(record: Mapping[str, Any], where: str, names: ColumnNames) -> ProblemRow | None:
    """Return the problem of a record, None where it says that there is no answer.

    Args:
        record: fields by column.
        where: file and line, for messages.
        names: the columns that hold what.

    Raises:
        UnusableRowError: the question or the answer is missing or blank.
        DataError: a field is missing or of a wrong type; names ``where`` and the field.
    """
    kind = _kind(record, where, names)
    answer = _answer(record, kind, where, names)
    if answer is None:
        return None
    asked = _asked(record, where, names)
    extra = _extra(record, names)
    content = _digest(asked, answer, kind, extra)
    if isinstance(asked, str):
        messages, text = None, asked + names.suffix
    else:
        messages = with_suffix(asked, names.suffix)
        text = last_user_text(messages)
    told = None if kind != "math" else _answer_format(messages or text, names)
    identity = _id(record, where, names)
    problem = Problem(
        id=content.hex() if identity is None else identity,
        text=text,
        answer=answer,
        kind=kind,
        extra=extra if told is None else {**extra, "answer_format": told or ["boxed"]},
    )
    return ProblemRow(
        problem=problem,
        messages=messages,
        content=content,
        has_own_id=identity is not None,
        says_format=told != [],
    )


def check_kind(problem: Problem, kinds: Collection[str] | None, where: str) -> None:
    """Raise DataError unless a verifier exists for the problem."""
    if kinds is not None and problem.kind not in kinds:
        known = ", ".join(sorted(kinds))
        raise DataError(f'{where}: unknown kind "{problem.kind}"; known kinds: {known}')


def raise_faults(places: Sequence[str], faults: Sequence[str | None]) -> None:
    """Raise DataError naming the first faults, if any; both sequences are equally long."""
    found = [f"{where}: {fault}" for where, fault in zip(places, faults, strict=True) if fault]
    if found:
        raise faults_error(found, num=len(found))


def faults_error(texts: Sequence[str], *, num: int) -> DataError:
    """Return the error of ``num`` faults, of which at least the first ten are worded."""
    left_out = num - MAX_FAULTS_SHOWN
    more = [f"and {left_out:,} more"] if left_out > 0 else []
    return DataError("\n".join([*texts[:MAX_FAULTS_SHOWN], *more]))


def _kind(record: Mapping[str, Any], where: str, names: ColumnNames) -> str:
    if names.given_kind is not None:
        return names.given_kind
    value = find_field(record, names.kind)
    if value is MISSING:
        return "math"
    return text_of(value, str(names.kind), where, takes_numbers=False)


def _answer(record: Mapping[str, Any], kind: str, where: str, names: ColumnNames) -> str | None:
    """Return the right answer, "" where the kind needs none, None where the row has none."""
    value = find_field(record, names.answer)
    # Only math surely needs an answer; a verifier of the user's own checks its own fields.
    if value is MISSING and kind != "math" and "answer" not in names.required:
        return ""
    said = "" if value is MISSING or value is None else value
    if isinstance(said, str) and said.strip().lower() in names.unanswerable:
        return None
    if value is MISSING:
        raise missing_field(record, names.answer, where, setting=_setting("answer", names))
    return text_of(value, names.answer, where, takes_numbers=names.takes_numbers)


def _asked(record: Mapping[str, Any], where: str, names: ColumnNames) -> str | tuple[Message, ...]:
    """Return the text or the messages of the question."""
    value = find_field(record, names.problem)
    if value is not MISSING:
        assert names.problem is not None, "or nothing would have been found"
        return text_of(value, names.problem, where, takes_numbers=False)
    value = find_field(record, names.messages)
    if value is not MISSING:
        assert names.messages is not None, "or nothing would have been found"
        return read_messages(value, names.messages, where)
    key = "messages" if names.problem is None else "problem"
    name = names.messages if names.problem is None else names.problem
    assert name is not None, names
    raise missing_field(record, name, where, setting=_setting(key, names))


def _id(record: Mapping[str, Any], where: str, names: ColumnNames) -> str | None:
    value = find_field(record, names.id)
    if value is MISSING:
        if names.id is not None and "id" in names.required:
            raise missing_field(record, names.id, where, setting="id")
        return None
    return text_of(value, str(names.id), where, takes_numbers=names.takes_numbers)


def _extra(record: Mapping[str, Any], names: ColumnNames) -> dict[str, Any]:
    """Return the fields that verifiers see; of those that are named, the ones that are there."""
    if names.extra is None:
        used = {names.answer, names.id, names.kind}
        used.add(names.problem if names.problem in record else names.messages)
        return {name: value for name, value in record.items() if name not in used}
    found = {name: find_field(record, name) for name in names.extra}
    return {name: value for name, value in found.items() if value is not MISSING}


def _answer_format(asked: str | Sequence[Message], names: ColumnNames) -> list[str] | None:
    """Return the forms in which an answer is taken, empty if none is asked for; None for a box."""
    if names.answer_format is None:
        return None
    if names.answer_format != "asked":
        return [names.answer_format]
    return requested_formats(asked if isinstance(asked, str) else whole_text(asked))


def _digest(
    asked: str | Sequence[Message], answer: str, kind: str, extra: Mapping[str, Any]
) -> bytes:
    # Two problems of other kinds may differ in their tests alone.
    parts = [asked, answer, kind, extra if kind != "math" else None]
    return hashlib.blake2b(_CANONICAL.encode(parts).encode(), digest_size=_ID_BYTES).digest()


def _setting(key: str, names: ColumnNames) -> str | None:
    """Return the key of data.columns to name in an error; None for the package's own form."""
    return key if names.takes_numbers else None
