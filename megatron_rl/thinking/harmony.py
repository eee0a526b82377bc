"""Harmony, the format of gpt-oss: messages in channels instead of tags.

The prompt ends with ``<|start|>assistant``, and a completion is::

    <|channel|>analysis<|message|>THOUGHTS<|end|>
    <|start|>assistant<|channel|>final<|message|>ANSWER<|return|>

(without the line break). The channels analysis and commentary are thoughts, final is the answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_rl.thinking.pieces import Piece, join, mark, split_text
from megatron_rl.types import PromptThought, Response

_START, _CHANNEL, _MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
_END, _RETURN, _CALL, _CONSTRAIN = "<|end|>", "<|return|>", "<|call|>", "<|constrain|>"
NEEDED_MARKS = (_START, _CHANNEL, _MESSAGE, _END, _RETURN)
MARKS = (*NEEDED_MARKS, _CALL, _CONSTRAIN)
_HEADER_MARKS = (_CHANNEL, _CONSTRAIN)
_ENDS = tuple(map(mark, (_END, _RETURN, _CALL)))
_ROLE = "assistant"
_THOUGHTS, _ANSWER = ("analysis", "commentary"), "final"
_ANALYSIS_HEADER = f"{_CHANNEL}analysis{_MESSAGE}"
_FINAL_HEADER = f"{_CHANNEL}{_ANSWER}{_MESSAGE}"
_TURN = f"{_START}{_ROLE}"


class _Malformed(Exception):
    """The response is no sequence of messages; says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Message:
    channel: str
    content: str


def read_harmony(pieces: Sequence[Piece], prompt_thought: PromptThought) -> Response:
    """Return the response: thoughts, then one final message, and nothing after it."""
    prefix = split_text(_written_before(pieces, prompt_thought), MARKS)
    try:
        messages = list(_messages([*prefix, *pieces]))
        num_final = sum(message.channel == _ANSWER for message in messages)
        if num_final != 1:
            raise _Malformed(f"has {num_final} messages in the channel final instead of 1")
        *before, final = messages
        if final.channel != _ANSWER:
            raise _Malformed("goes on after its message in the channel final")
        if not before and prompt_thought != "closed":
            raise _Malformed("has no message in the channel analysis before the final one")
    except _Malformed as error:
        return Response(thoughts=None, answer=join(pieces), fault=str(error))
    thoughts = "\n".join(message.content for message in before)
    is_asked = prompt_thought != "closed"
    return Response(thoughts=thoughts if is_asked else None, answer=final.content, fault=None)


def write_harmony(thoughts: str, answer: str, prompt_thought: PromptThought, *, end: str) -> str:
    """Return a response as the policy has to write it after a prompt that ends with ``end``."""
    if prompt_thought == "closed":
        return answer if end.endswith(_MESSAGE) else f"{_FINAL_HEADER}{answer}"
    opening = "" if prompt_thought == "opened" else _ANALYSIS_HEADER
    return f"{opening}{thoughts}{_END}{_TURN}{_FINAL_HEADER}{answer}"


def harmony_thought(pieces: Sequence[Piece]) -> PromptThought:
    """Return the state in which the end of a prompt leaves the thoughts of the turn it begins."""
    starts = [i for i, piece in enumerate(pieces) if piece == mark(_START)]
    if not starts:
        return "unopened"
    header = join(pieces[starts[-1] + 1 :])
    if header == f"{_ROLE}{_ANALYSIS_HEADER}":
        return "opened"
    if header == f"{_ROLE}{_FINAL_HEADER}":
        return "closed"
    # A message of thoughts that the prompt has written as a whole, before this one.
    earlier = join(pieces[starts[-2] + 1 : starts[-1]]) if len(starts) > 1 else ""
    return "closed" if earlier.startswith(f"{_ROLE}{_ANALYSIS_HEADER}") else "unopened"


def _written_before(pieces: Sequence[Piece], prompt_thought: PromptThought) -> str:
    """Return what the prompt has written of the first message."""
    if pieces and pieces[0] == mark(_START):  # text of a person, who gives the whole turn
        return ""
    if prompt_thought == "opened":
        return f"{_TURN}{_ANALYSIS_HEADER}"
    is_header_due = bool(pieces) and pieces[0] == mark(_CHANNEL)
    if prompt_thought == "closed" and not is_header_due:
        return f"{_TURN}{_FINAL_HEADER}"
    return _TURN


def _messages(pieces: Sequence[Piece]) -> Iterator[_Message]:
    position = 0
    while position < len(pieces):
        if pieces[position] != mark(_START):
            raise _Malformed("has text outside of its messages")
        header, position = _until(pieces, position + 1, (mark(_MESSAGE),), _HEADER_MARKS)
        if position == len(pieces):
            raise _Malformed(f"has a message without {_MESSAGE}")
        channel = _channel_of(header)
        content, position = _until(pieces, position + 1, _ENDS, ())
        if position < len(pieces) and pieces[position] == mark(_CALL):
            raise _Malformed("calls a tool")
        position += 1
        yield _Message(channel=channel, content=join(content))


def _until(
    pieces: Sequence[Piece], start: int, ends: Sequence[Piece], allowed: Sequence[str]
) -> tuple[Sequence[Piece], int]:
    """Return the pieces up to the first of ``ends``, and its place; the end where there is none."""
    for position in range(start, len(pieces)):
        piece = pieces[position]
        if piece in ends:
            return pieces[start:position], position
        if piece.is_mark and piece.text not in allowed:
            raise _Malformed(f"has {piece.text} inside of a message")
    return pieces[start:], len(pieces)


def _channel_of(header: Sequence[Piece]) -> str:
    role, separator, rest = join(header).partition(_CHANNEL)
    if not separator:
        raise _Malformed("has a message without a channel")
    if " to=" in role or " to=" in rest:
        raise _Malformed("calls a tool")
    if role != _ROLE:
        raise _Malformed(f'has a message of the role "{role}"')
    channel = rest.partition(_CONSTRAIN)[0].strip()
    if channel not in (*_THOUGHTS, _ANSWER):
        raise _Malformed(f'has a message in the channel "{channel}"')
    return channel
