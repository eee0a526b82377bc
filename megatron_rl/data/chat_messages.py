"""Chat messages of a problem: a conversation that waits for the response."""

from collections.abc import Mapping, Sequence
from typing import Any

from megatron_rl.data.fields import UnusableRowError, json_value
from megatron_rl.errors import DataError

Message = dict[str, str]
"""``role`` and ``content``, as chat templates take them."""

SYSTEM_ROLES = ("system", "developer")
"""Roles of a message that says how to respond."""

_ROLES = (*SYSTEM_ROLES, "user", "assistant", "tool")


def read_messages(value: Any, name: str, where: str) -> tuple[Message, ...] | str:
    """Return the messages of a field, or the text where it holds one.

    The field is a list, the JSON text of a list, or a text that a user says.

    Raises:
        UnusableRowError: it is blank or empty.
        DataError: it is something else, or the user does not have the last word.
    """
    if isinstance(value, str):
        parsed = json_value(value) if value.lstrip().startswith("[") else value
        if not (isinstance(parsed, list) and parsed and isinstance(parsed[0], Mapping)):
            if not value.strip():
                raise UnusableRowError(f'{where}: field "{name}" is blank')
            return value
        value = parsed
    if value is None or (isinstance(value, list) and not value):
        raise UnusableRowError(f'{where}: field "{name}" has no messages')
    if not isinstance(value, list):
        raise DataError(
            f'{where}: field "{name}" must be a list of messages or a text, got '
            f"{type(value).__name__}"
        )
    messages = tuple(
        _message(item, f'{where}: field "{name}[{number}]"') for number, item in enumerate(value)
    )
    if messages[-1]["role"] != "user":
        raise DataError(
            f'{where}: field "{name}" ends with the role "{messages[-1]["role"]}" and must end '
            'with "user", which the policy answers'
        )
    if not messages[-1]["content"].strip():
        raise UnusableRowError(f'{where}: field "{name}" ends with a blank message')
    return messages


def last_user_text(messages: Sequence[Message]) -> str:
    """Return what the user says last."""
    return messages[-1]["content"]


def whole_text(messages: Sequence[Message]) -> str:
    """Return the texts of all messages, a line each."""
    return "\n".join(message["content"] for message in messages)


def with_suffix(messages: Sequence[Message], suffix: str) -> tuple[Message, ...]:
    """Return the messages with ``suffix`` behind the last."""
    last = messages[-1]
    return (*messages[:-1], {**last, "content": last["content"] + suffix})


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, Mapping) or not {"role", "content"} <= item.keys():
        found = ", ".join(item) if isinstance(item, Mapping) else type(item).__name__
        raise DataError(f'{where} must have "role" and "content"; found {found}')
    role, content = item["role"], item["content"]
    if role not in _ROLES:
        raise DataError(f"{where} has the role {role!r}, which must be one of {', '.join(_ROLES)}")
    if isinstance(content, list):
        content = _text_of_parts(content, where)
    if not isinstance(content, str):
        raise DataError(f"{where} must have text as its content, got {type(content).__name__}")
    return {"role": role, "content": content}


def _text_of_parts(parts: Sequence[Any], where: str) -> str:
    """Join the parts of a content; only text can be part of a prompt."""
    for part in parts:
        if not isinstance(part, Mapping) or "text" not in part or part["text"] is None:
            raise DataError(f"{where} has a part that is no text; only text problems are taken")
    return "".join(str(part["text"]) for part in parts)
