"""Responses of one pair of tags, read strictly: an opening tag, thoughts, a closing tag, an answer.

The response *starts* with the opening tag, blanks included (arXiv:2506.10910, section 2.2), unless
the prompt has written that tag.
"""

from collections.abc import Sequence

from megatron_rl.thinking.formats import KNOWN_TAGS, Tags
from megatron_rl.thinking.pieces import Piece, join, mark
from megatron_rl.types import PromptThought, Response


def read_tags(pieces: Sequence[Piece], tags: Tags, prompt_thought: PromptThought) -> Response:
    """Return the response; there is exactly one pair of tags in prompt and response together."""
    text = join(pieces)
    if prompt_thought == "closed":
        return Response(thoughts=None, answer=text, fault=None)
    fault = _find_fault(pieces, tags, is_opened=prompt_thought == "opened")
    if fault is not None:
        return Response(thoughts=None, answer=text, fault=fault)
    close = pieces.index(mark(tags.close))
    start = 0 if prompt_thought == "opened" else 1
    return Response(
        thoughts=join(pieces[start:close]), answer=join(pieces[close + 1 :]), fault=None
    )


def _find_fault(pieces: Sequence[Piece], tags: Tags, *, is_opened: bool) -> str | None:
    if not is_opened and (not pieces or pieces[0] != mark(tags.open)):
        return f"does not start with {tags.open}{_find_likeness(join(pieces), tags)}"
    num_open = is_opened + pieces.count(mark(tags.open))
    if num_open != 1:
        where = ", with that of the prompt" if is_opened else ""
        return f"has {num_open} {tags.open} tags instead of 1{where}"
    num_close = pieces.count(mark(tags.close))
    return None if num_close == 1 else f"has {num_close} {tags.close} tags instead of 1"


def _find_likeness(text: str, tags: Tags) -> str:
    """Return what explains a response that looks as if it started with a tag."""
    if text.startswith(tags.open):
        return ", which it spells in several tokens instead of the tag's own"
    for other in KNOWN_TAGS:
        if other != tags and text.startswith(other.open):
            return f" but with {other.open}; reward.thinking says which tags count"
    return ""
