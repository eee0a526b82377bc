"""Prompts of problems as token ids: system prompt, chat template, check of the length."""

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Protocol

from megatron_rl.errors import DataError, ModelError
from megatron_rl.types import Problem

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
    problem_text: str,
    *,
    system_prompt: str | None,
    template_kwargs: Mapping[str, Any],
) -> tuple[int, ...]:
    """Return the token ids of the problem as a chat that waits for the response.

    ``template_kwargs`` are variables of the chat template.

    Raises:
        ModelError: there is no chat template, or it refuses these messages.
    """
    if tokenizer.chat_template is None:
        raise ModelError("the tokenizer has no chat template; add one to model.path")
    messages = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    messages.append({"role": "user", "content": problem_text})
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
        raise ModelError(_template_refusal(error, has_system=system_prompt is not None)) from error
    return tuple(ids)


def build_prompts(
    make_prompt: Callable[[str], tuple[int, ...]],
    problems: Sequence[Problem],
    *,
    context_length: int,
    max_new_tokens: int,
) -> list[tuple[int, ...]]:
    """Tokenize every problem, so that one too long is found before anything starts.

    Args:
        make_prompt: text of a problem to token ids, see :func:`build_prompt`.
        problems: what is asked.
        context_length: longest prompt plus completion.
        max_new_tokens: longest completion.

    Raises:
        DataError: a prompt leaves less than ``max_new_tokens`` of the ``context_length`` tokens
            that a server uses.
    """
    limit = context_length - max_new_tokens - _SERVER_RESERVE
    prompts = []
    for problem in problems:
        prompt = make_prompt(problem.text)
        if len(prompt) > limit:
            raise DataError(
                f'problem "{problem.id}" has a prompt of {len(prompt)} tokens, the limit is '
                f"{limit}: context length {context_length} less max_new_tokens {max_new_tokens} "
                f"and {_SERVER_RESERVE} that a server keeps. "
                "Remove the problem, raise generators.context_length, or lower "
                "generators.sampling.max_new_tokens"
            )
        prompts.append(prompt)
    return prompts


def _template_refusal(error: Exception, *, has_system: bool) -> str:
    if not has_system:
        return f"the chat template of model.path fails on a user message: {error}; correct it"
    return (
        f"the chat template of model.path fails on a system message before a user message: {error}"
        '; if it knows no system message, set data.system_prompt = "none" and ask for the format '
        "of a response in the problems, or have the template write the message"
    )
