"""Reader of responses that are text, such as those of a file."""

from collections.abc import Sequence

from megatron_rl.thinking.formats import Tags, ThinkFormat, marks_of
from megatron_rl.thinking.harmony import read_harmony
from megatron_rl.thinking.pieces import Piece, join, split_text
from megatron_rl.thinking.tag_pairs import read_tags
from megatron_rl.types import PromptThought, Response


def read_text(text: str, think_format: ThinkFormat, prompt_thought: PromptThought) -> Response:
    """Return the response in ``text``, in which every spelling of a mark is the mark."""
    return read_pieces(split_text(text, marks_of(think_format)), think_format, prompt_thought)


def read_pieces(
    pieces: Sequence[Piece], think_format: ThinkFormat, prompt_thought: PromptThought
) -> Response:
    """Return the response of the pieces after a prompt in that state."""
    if think_format == "harmony":
        return read_harmony(pieces, prompt_thought)
    if isinstance(think_format, Tags):
        return read_tags(pieces, think_format, prompt_thought)
    return Response(thoughts=None, answer=join(pieces), fault=None)
