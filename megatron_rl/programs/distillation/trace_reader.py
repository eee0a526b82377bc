"""Reader of completions as supervised pairs that give back the very text the teacher wrote."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from megatron_rl.config import RunConfig
from megatron_rl.programs.builders.stop_tokens import stop_ids_of, turn_end_of
from megatron_rl.programs.builders.thinking import (
    demonstration_writer,
    open_thinking,
    prompt_maker,
)
from megatron_rl.thinking import THINK
from megatron_rl.types import Response

# Completions of one problem stand together in a batch.
_KEPT_PROMPTS = 64
_NO_CHARACTER = "\ufffd"

Refusal = Literal["other_prompt", "not_reproduced"]
"""Fault of a completion that no pair can say: its prompt is a chat of several messages, or has a
system message of its own; or its text, read as a demonstration, would be another."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """A completion as the response of a supervised pair."""

    response: str
    """Thoughts in ``<think>`` tags, whatever those of the model are, and the answer."""
    num_thought_tokens: int
    """Tokens of the completion without those of its answer."""
    is_retokenised: bool
    """Whether the tokenizer spells the text in other tokens than the teacher did."""


class TraceReader:
    """Tokenizer and think format of a run, with the reader of its cold start to compare with."""

    def __init__(self, config: RunConfig, tokenizer: Any) -> None:
        """Recognise the think format of the run."""
        thinking = open_thinking(config, tokenizer)
        self._tokenizer = tokenizer
        self._reader = thinking.reader
        self._write = demonstration_writer(thinking)
        self._stop_ids = stop_ids_of(config, tokenizer)
        self._turn_end = turn_end_of(config, tokenizer)
        make = prompt_maker(config, tokenizer, thinking)
        self._make_prompt = functools.lru_cache(maxsize=_KEPT_PROMPTS)(make)

    def __call__(
        self, problem: str, prompt_ids: tuple[int, ...], token_ids: tuple[int, ...]
    ) -> Trace | Refusal:
        """Return the trace of a completion that ended by itself, or why there is none."""
        if self._make_prompt(problem) != prompt_ids:
            return "other_prompt"
        is_stopped = bool(token_ids) and token_ids[-1] in self._stop_ids
        written_ids = token_ids[:-1] if is_stopped else token_ids
        _, read = self._reader(prompt_ids, written_ids)
        response = self._response(read, prompt_ids)
        again, fault = self._write(prompt_ids, response)
        again_ids = tuple(self._tokenizer.encode(again, add_special_tokens=False))
        is_same = again_ids == written_ids or self._is_same_text(again_ids, written_ids)
        if fault is not None or not is_same or not response.strip():
            return "not_reproduced"
        return Trace(
            response=response,
            num_thought_tokens=max(0, len(token_ids) - self._num_answer_tokens(read)),
            is_retokenised=(*again_ids, self._turn_end) != token_ids,
        )

    def _response(self, read: Response, prompt_ids: tuple[int, ...]) -> str:
        if read.thoughts is None:
            return read.answer
        # A demonstration loses the blanks that the prompt has behind an opening tag.
        blanks = ""
        if self._reader.prompt_thought(prompt_ids) == "opened":
            end = self._reader.prompt_end(prompt_ids)
            blanks = end[len(end.rstrip()) :]
        return f"{THINK.open}{blanks}{read.thoughts}{THINK.close}{read.answer}"

    def _num_answer_tokens(self, read: Response) -> int:
        """Return the tokens that are no thoughts; a response that is all answer stands for them."""
        if read.thoughts is None:
            return 0
        return len(self._tokenizer.encode(read.answer, add_special_tokens=False))

    def _is_same_text(self, ids: Sequence[int], others: Sequence[int]) -> bool:
        """Return whether tokens spell one text, which incomplete characters do not tell."""
        text, other = (
            self._tokenizer.decode(one, skip_special_tokens=False) for one in (ids, others)
        )
        return bool(text == other) and _NO_CHARACTER not in text
