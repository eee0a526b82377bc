"""Chat templates: the variables that they read, and the token with which they end a turn."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from megatron_rl.errors import ConfigError

# A word that no template contains.
_ANSWER = "qvxzkj"


def template_text(tokenizer: Any) -> str:
    """Return the chat template of a tokenizer, or all of them; empty where there is none."""
    template = tokenizer.chat_template
    if template is None:
        return ""
    return template if isinstance(template, str) else "\n".join(template.values())


def check_template_kwargs(template: str, template_kwargs: Mapping[str, Any]) -> None:
    """Raise ConfigError for a variable that the chat template does not read."""
    for name, value in template_kwargs.items():
        if re.search(rf"\b{re.escape(name)}\b", template) is None:
            raise ConfigError(
                f"data.template_kwargs.{name} ({value!r}): the chat template of model.path reads "
                "no variable of this name; correct the name, or remove the key"
            )


def find_turn_end(tokenizer: Any, *, template_kwargs: Mapping[str, Any]) -> int | None:
    """Return the token with which the chat template ends the turn of the assistant.

    None where the template ends it with plain text or not at all, or cannot render a finished turn.
    """
    from jinja2 import TemplateError  # late: only start-up needs it

    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=False, **template_kwargs
        )
    except (TemplateError, TypeError, KeyError):
        return None
    _, found, rest = text.rpartition(_ANSWER)
    if not found:
        return None
    added = frozenset(tokenizer.get_added_vocab().values())
    ids = tokenizer.encode(rest, add_special_tokens=False)
    return next((token_id for token_id in ids if token_id in added), None)


def choose_turn_end(
    turn_end: int | None, *, stop_ids: Collection[int], eos_id: int | None
) -> int | None:
    """Return the token that ends a demonstration: the template's, where servers stop at it."""
    return turn_end if turn_end is not None and turn_end in stop_ids else eos_id
