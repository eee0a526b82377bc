"""Reader of completions that are token ids, and of the prompts before them."""

from collections.abc import Sequence

from megatron_rl.thinking.formats import ThinkFormat, marks_of
from megatron_rl.thinking.pieces import join
from megatron_rl.thinking.prompt_end import thought_at_end
from megatron_rl.thinking.text_reader import read_pieces
from megatron_rl.thinking.vocabulary import Tokenizer, find_marks, split_ids
from megatron_rl.types import PromptThought, Response

# Tokens before the last mark of a prompt: blanks after it, roles and channels between marks.
_MARGIN = 32


class TokenReader:
    """Tokenizer and think format of a run; reads completions as training and evaluation do."""

    def __init__(self, tokenizer: Tokenizer, think_format: ThinkFormat) -> None:
        """Find the marks of the format in the vocabulary."""
        self.think_format = think_format
        """The format in force."""
        self._tokenizer = tokenizer
        self._marks = find_marks(tokenizer, think_format)
        # A token holds a byte or more.
        self._tail = _MARGIN + sum(len(text.encode()) for text in marks_of(think_format))

    def __call__(self, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> tuple[str, Response]:
        """Return the completion as people read it, and as it is judged."""
        pieces = split_ids(self._tokenizer, token_ids, self._marks, hides_special=True)
        response = read_pieces(pieces, self.think_format, self.prompt_thought(prompt_ids))
        return join(pieces), response

    def prompt_thought(self, prompt_ids: Sequence[int]) -> PromptThought:
        """Return the state in which the end of a prompt leaves the thought."""
        tail = prompt_ids[-self._tail :]
        pieces = split_ids(self._tokenizer, tail, self._marks, hides_special=False)
        return thought_at_end(pieces, self.think_format)

    def prompt_end(self, prompt_ids: Sequence[int]) -> str:
        """Return the text with which a prompt ends, special tokens shown."""
        return self._tokenizer.decode(prompt_ids[-_MARGIN:], skip_special_tokens=False)
