"""Prompts of problems as token ids: system prompt, chat template, check of the length."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Protocol

from megatron_rl.data.chat_messages import SYSTEM_ROLES, Message
from megatron_rl.errors import DataError, ModelError

_SERVER_RESERVE = 2
"""Tokens of its context length that an SGLang server never fills."""


class ChatTokenizer(Protocol):
    """The part of a Hugging Face tokenizer that this module needs."""

    chat_template: str | None

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        return_dict: bool,
        **template_kwargs: Any,
    ) -> list[int]:
        """Return the token ids of the conversation, ready for the response."""
        ...


ThoughtsAsked = Literal["own_tags", "opened_by_prompt", "channels", "answer_only"]
"""What the default system prompt asks for: thoughts in tags of which the policy writes both, or the
closing one alone; thoughts in a channel; or no thoughts."""


def load_system_prompt(
    setting: Path | Literal["default", "none"],
    *,
    thoughts: ThoughtsAsked,
    tags: tuple[str, str] | None,
) -> str | None:
    """Return the system prompt that ``data.system_prompt`` names; None for "none".

    Args:
        setting: a file, which is taken as it is, or the package's own, or none.
        thoughts: which of the package's own.
        tags: the tags that it names, None where it names none.
    """
    if setting == "none":
        return None
    if setting == "default":
        package_file = resources.files("megatron_rl.data") / "system_prompts" / f"{thoughts}.txt"
        text = package_file.read_text(encoding="utf-8").strip()
        if tags is not None:
            text = text.replace("{open}", tags[0]).replace("{close}", tags[1])
        return text
    try:
        text = Path(setting).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{setting}: system prompt cannot be read: {error}") from error
    if not text:
        raise DataError(f'{setting}: system prompt is empty; set data.system_prompt = "none"')
    return text


def build_prompt(
    tokenizer: ChatTokenizer,
    asked: str | Sequence[Message],
    *,
    system_prompt: str | None,
    template_kwargs: Mapping[str, Any],
) -> tuple[int, ...]:
    """Return the token ids of the problem as a chat that waits for the response.

    Args:
        tokenizer: has the chat template.
        asked: text of the problem, or a chat that ends with the user.
        system_prompt: used unless the chat has a system message.
        template_kwargs: variables of the chat template.

    Raises:
        ModelError: there is no chat template, or it refuses these messages.
    """
    if tokenizer.chat_template is None:
        raise ModelError("the tokenizer has no chat template; add one to model.path")
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    has_system = any(message["role"] in SYSTEM_ROLES for message in messages)
    if system_prompt is not None and not has_system:
        messages = [{"role": "system", "content": system_prompt}, *messages]
    from jinja2 import TemplateError  # late: only start-up needs it

    try:
        # A dictionary is the default of newer transformers releases.
        ids = tokenizer.apply_chat_template(
            messages,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
            **template_kwargs,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise ModelError(_template_refusal(error, messages)) from error
    return tuple(ids)


def longest_prompt(*, context_length: int, max_new_tokens: int) -> int:
    """Return the most tokens a prompt may have beside ``max_new_tokens`` of a completion."""
    return context_length - max_new_tokens - _SERVER_RESERVE


def too_long(
    problem_id: str,
    num_tokens: int,
    *,
    context_length: int,
    max_new_tokens: int,
    max_new_tokens_key: str = "generators.sampling.max_new_tokens",
) -> str:
    """Return what is wrong with a prompt of more than :func:`longest_prompt` tokens."""
    limit = longest_prompt(context_length=context_length, max_new_tokens=max_new_tokens)
    return (
        f'problem "{problem_id}" has a prompt of {num_tokens} tokens, the limit is '
        f"{limit}: context length {context_length} less max_new_tokens {max_new_tokens} "
        f"and {_SERVER_RESERVE} that a server keeps. "
        "Remove the problem, raise generators.context_length, or lower "
        f"{max_new_tokens_key}"
    )


def _template_refusal(error: Exception, messages: Sequence[Message]) -> str:
    roles = [message["role"] for message in messages]
    if roles == ["user"]:
        return f"the chat template of model.path fails on a user message: {error}; correct it"
    if roles != ["system", "user"]:
        return (
            f"the chat template of model.path fails on messages of {', '.join(roles)}: {error}; "
            "correct it, or leave out such problems"
        )
    return (
        f"the chat template of model.path fails on a system message before a user message: {error}"
        '; if it knows no system message, set data.system_prompt = "none" and ask for the format '
        "of a response in the problems, or have the template write the message"
    )
