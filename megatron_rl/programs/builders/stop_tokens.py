"""Stop tokens of a run: where servers end a completion, and what a demonstration ends with."""

import logging
from typing import Any

from megatron_rl.config import RunConfig
from megatron_rl.data.chat_template import choose_turn_end, find_turn_end
from megatron_rl.hf_folder import stop_token_ids

_LOG = logging.getLogger(__name__)


def turn_end_of(config: RunConfig, tokenizer: Any) -> int | None:
    """Return the token that ends a demonstration; None where the tokenizer has none."""
    return choose_turn_end(
        find_turn_end(tokenizer, template_kwargs=config.data.template_kwargs),
        stop_ids=stop_ids_of(config, tokenizer),
        eos_id=tokenizer.eos_token_id,
    )


def warn_of_unstopped_turns(config: RunConfig, tokenizer: Any) -> None:
    """Warn of a chat template whose end of a turn stops no server: completions would go on."""
    end = find_turn_end(tokenizer, template_kwargs=config.data.template_kwargs)
    stop_ids = stop_ids_of(config, tokenizer)
    if end is None or end in stop_ids:
        return
    _LOG.warning(
        "the chat template ends a turn with %s (%d), at which servers do not stop; they stop at "
        "%s. Add it to eos_token_id in generation_config.json of model.path",
        *(tokenizer.convert_ids_to_tokens(end), end),
        ", ".join(f"{tokenizer.convert_ids_to_tokens(i)} ({i})" for i in sorted(stop_ids)),
    )


def stop_ids_of(config: RunConfig, tokenizer: Any) -> frozenset[int]:
    """Return the tokens at which servers end a completion."""
    eos = tokenizer.eos_token_id
    return stop_token_ids(config.model.path) | (frozenset() if eos is None else {eos})
