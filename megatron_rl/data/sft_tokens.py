"""SFT pairs as token ids: chat prompt, response, end of the turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    make_prompt: Callable[[str], tuple[int, ...]],
    write_response: Callable[[tuple[int, ...], str], str],
    turn_end: int | None,
    max_tokens: int,
) -> list[Demonstration]:
    """Tokenize every pair as generators see it: chat prompt, response, end of the turn.

    Args:
        tokenizer: of the model.
        pairs: prompts and responses.
        path: their file, for messages.
        make_prompt: text of a prompt to token ids, see ``data.prompts``.
        write_response: (prompt token ids, response of the pair) to the response to imitate.
        turn_end: token that ends a response, None if the tokenizer has none.
        max_tokens: longest pair.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token.
        DataError: a pair has more than ``max_tokens`` tokens (learner.token_budget).
    """
    if turn_end is None:
        raise ModelError("the tokenizer has no eos_token, so responses could not end; set one")
    demonstrations = []
    for number, pair in enumerate(pairs, start=1):
        prompt = make_prompt(pair.prompt)
        text = write_response(prompt, pair.response)
        token_ids = (*prompt, *tokenizer.encode(text, add_special_tokens=False), turn_end)
        if len(token_ids) > max_tokens:
            raise DataError(
                f"{path}: pair {number} has {len(token_ids)} tokens; the limit is {max_tokens} "
                "(learner.token_budget). Remove it or raise the limit"
            )
        demonstrations.append(Demonstration(token_ids=token_ids, prompt_length=len(prompt)))
    return demonstrations
