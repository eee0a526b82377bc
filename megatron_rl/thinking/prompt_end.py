"""End of a prompt: whether it opens a thought, closes it, or leaves that to the policy.

Nothing but the end counts: a tag may stand in the system prompt, and a user may type one.
"""

from collections.abc import Sequence

from megatron_rl.thinking.formats import KNOWN_TAGS, Tags, ThinkFormat
from megatron_rl.thinking.harmony import harmony_thought
from megatron_rl.thinking.pieces import Piece
from megatron_rl.types import PromptThought


def thought_at_end(pieces: Sequence[Piece], think_format: ThinkFormat) -> PromptThought:
    """Return the state in which a prompt of these pieces leaves the thought.

    A tag counts that nothing but blanks follows. "none" knows no thoughts, so that they are over.
    """
    if think_format == "harmony":
        return harmony_thought(pieces)
    if not isinstance(think_format, Tags):
        return "closed"
    for piece in reversed(pieces):
        if piece.is_mark:
            return "opened" if piece.text == think_format.open else "closed"
        if not piece.text.isspace():
            break
    return "unopened"


def tags_at_end(text: str) -> Tags | None:
    """Return the known tags of which one ends ``text``, None if none does."""
    end = text.rstrip()
    return next((tags for tags in KNOWN_TAGS if end.endswith((tags.open, tags.close))), None)
