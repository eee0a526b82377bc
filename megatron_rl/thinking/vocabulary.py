"""Vocabulary of marks: those that are one token of a tokenizer, and those spelled in several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from megatron_rl.thinking import harmony
from megatron_rl.thinking.formats import Tags, ThinkFormat, marks_of
from megatron_rl.thinking.pieces import Piece, mark, split_text


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that this package needs."""

    def get_added_vocab(self) -> dict[str, int]:
        """Return the ids of the tokens that text is split at before anything else."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of a text."""
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of token ids."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """Marks of a think format, by how they are found in token ids."""

    by_id: Mapping[int, str]
    """Those that are one token. The same text spelled in other tokens is no mark."""
    in_text: tuple[str, ...]


def find_marks(tokenizer: Tokenizer, think_format: ThinkFormat) -> Marks:
    """Return how the marks of a format are found.

    Only an *added* token counts as one: any other may be spelled in several where it meets its
    neighbours, and the policy is free to do so.
    """
    added = tokenizer.get_added_vocab()
    texts = marks_of(think_format)
    return Marks(
        by_id={added[text]: text for text in texts if text in added},
        in_text=tuple(text for text in texts if text not in added),
    )


def split_ids(
    tokenizer: Tokenizer, token_ids: Sequence[int], marks: Marks, *, hides_special: bool
) -> list[Piece]:
    """Return the pieces of token ids; of special tokens the marks are kept, whatever is hidden.

    A tokenizer that decodes a blank into the token after it leaves out the one behind a mark.
    """
    places = [i for i, token_id in enumerate(token_ids) if token_id in marks.by_id]
    pieces = []
    for before, place in pairwise([-1, *places, len(token_ids)]):
        between = token_ids[before + 1 : place]
        if between:
            text = tokenizer.decode(between, skip_special_tokens=hides_special)
            pieces += split_text(text, marks.in_text)
        if place < len(token_ids):
            pieces.append(mark(marks.by_id[token_ids[place]]))
    return pieces


def find_vocabulary_fault(tokenizer: Tokenizer, think_format: ThinkFormat) -> str | None:
    """Return why a tokenizer cannot write the marks of a format, None if it can."""
    if think_format == "harmony":
        added = tokenizer.get_added_vocab()
        missing = [text for text in harmony.NEEDED_MARKS if text not in added]
        return f"the vocabulary has no token {', '.join(missing)}" if missing else None
    if not isinstance(think_format, Tags):
        return None
    for text in find_marks(tokenizer, think_format).in_text:
        ids = tokenizer.encode(f"a{text}b", add_special_tokens=False)
        if text not in (back := tokenizer.decode(ids, skip_special_tokens=True)):
            return f'the tokenizer cannot write {text}: of "a{text}b" it makes "{back}"'
    return None
