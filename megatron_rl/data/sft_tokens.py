"""SFT pairs as token ids: chat prompt, response, end of sequence."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.data.prompts import build_prompt
from megatron_rl.data.sft_files import SftPair
from megatron_rl.errors import DataError, ModelError


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstration:
    """One pair, tokenized; the loss is on the tokens after the prompt."""

    token_ids: tuple[int, ...]
    prompt_length: int


def build_demonstrations(
    tokenizer: Any,
    pairs: Sequence[SftPair],
    *,
    path: Path,
    system_prompt: str | None,
    max_tokens: int,
) -> list[Demonstration]:
    """Tokenize every pair as generators see it: chat prompt, response, end of sequence.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token.
        DataError: a pair has more than ``max_tokens`` tokens (learner.token_budget).
    """
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no eos_token, so responses could not end; set one")
    demonstrations = []
    for number, pair in enumerate(pairs, start=1):
        prompt = build_prompt(tokenizer, pair.prompt, system_prompt=system_prompt)
        response = tokenizer.encode(pair.response, add_special_tokens=False)
        token_ids = (*prompt, *response, tokenizer.eos_token_id)
        if len(token_ids) > max_tokens:
            raise DataError(
                f"{path}: pair {number} has {len(token_ids)} tokens; the limit is {max_tokens} "
                "(learner.token_budget). Remove it or raise the limit"
            )
        demonstrations.append(Demonstration(token_ids=token_ids, prompt_length=len(prompt)))
    return demonstrations
