"""Think format of a run: recognised or as set, and what depends on it.

Rollout, evaluation, the offline programs and the cold start all ask here.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_rl.config import RewardConfig, RunConfig
from megatron_rl.data.chat_messages import Message
from megatron_rl.data.chat_template import check_template_kwargs, template_text
from megatron_rl.data.prompts import ThoughtsAsked, build_prompt, load_system_prompt
from megatron_rl.errors import ConfigError
from megatron_rl.programs.builders.prompt_lengths import MakePromptFn
from megatron_rl.thinking import (
    THINK,
    Recognised,
    Tags,
    ThinkFormat,
    TokenReader,
    find_vocabulary_fault,
    read_text,
    recognise,
    tags_at_end,
    write_demonstration,
)
from megatron_rl.types import PromptThought

# A text that no problem is, so that nothing but the template shows in the prompt's end.
_PROBE = "1 + 1?"


@dataclass(frozen=True, kw_only=True, slots=True)
class Thinking:
    """The think format in force, and the tokenizer that it is read with."""

    reader: TokenReader
    prompt_thought: PromptThought
    """State in which a prompt usually leaves the thought; each prompt may differ."""
    reason: str
    """Why this format, for people."""

    @property
    def think_format(self) -> ThinkFormat:
        """The format in force."""
        return self.reader.think_format

    def __str__(self) -> str:
        """Return the line that a program logs when it starts."""
        if self.think_format == "none":
            return f"think format: none, the whole response is the answer ({self.reason})"
        ends = {
            "unopened": "",
            "opened": "; the prompt opens the thought",
            "closed": "; the prompt closes the thought, so that the whole response is the answer",
        }
        return f"think format: {self.think_format} ({self.reason}){ends[self.prompt_thought]}"


def open_thinking(config: RunConfig, tokenizer: Any) -> Thinking:
    """Return the think format of a run.

    Raises:
        ConfigError: the tokenizer cannot write the marks, prompts end with other tags, or
            ``data.template_kwargs`` names what the template does not read.
        ModelError: there is no chat template.
    """
    template, kwargs = template_text(tokenizer), config.data.template_kwargs
    check_template_kwargs(template, kwargs)
    probe = build_prompt(tokenizer, _PROBE, system_prompt=None, template_kwargs=kwargs)
    found = _format_of(config.reward, tokenizer, template, probe)
    fault = find_vocabulary_fault(tokenizer, found.think_format)
    if fault is not None:
        raise ConfigError(
            f"reward.thinking ({_given(config.reward)}) must be marks that the tokenizer of "
            f"model.path can write: {fault}; name others, or add them to the tokenizer"
        )
    reader = TokenReader(tokenizer, found.think_format)
    _check_end(reader, probe, "a problem", config.reward)
    thought = reader.prompt_thought(probe)
    return Thinking(reader=reader, prompt_thought=thought, reason=found.reason)


def format_without_model(reward: RewardConfig) -> ThinkFormat:
    """Return the format in which a file of responses is read; for "auto" that of demonstrations."""
    if reward.thinking == "auto":
        return THINK
    return _named(reward)


@functools.cache
def system_prompt_for(
    setting: Path | Literal["default", "none"],
    think_format: ThinkFormat,
    prompt_thought: PromptThought,
) -> str | None:
    """Return the system prompt of prompts that leave the thought in this state."""
    tags = None
    thoughts: ThoughtsAsked = "answer_only"
    if think_format == "harmony" and prompt_thought != "closed":
        thoughts = "channels"
    if isinstance(think_format, Tags) and prompt_thought != "closed":
        tags = (think_format.open, think_format.close)
        thoughts = "own_tags" if prompt_thought == "unopened" else "opened_by_prompt"
    return load_system_prompt(setting, thoughts=thoughts, tags=tags)


def prompt_maker(
    config: RunConfig,
    tokenizer: Any,
    thinking: Thinking,
    *,
    system_prompt: Path | Literal["default", "none"] | None = None,
) -> MakePromptFn:
    """Return what makes the prompt of a problem: its text, or a chat, to token ids.

    Args:
        config: the run.
        tokenizer: of its model.
        thinking: its think format.
        system_prompt: instead of data.system_prompt, where it is not None.

    Raises (when called):
        ConfigError: the prompt opens or closes the thought in tags that are not in force.
    """
    reader = thinking.reader
    setting = config.data.system_prompt if system_prompt is None else system_prompt

    def build(asked: str | Sequence[Message], state: PromptThought) -> tuple[int, ...]:
        return build_prompt(
            tokenizer,
            asked,
            system_prompt=system_prompt_for(setting, reader.think_format, state),
            template_kwargs=config.data.template_kwargs,
        )

    def make(asked: str | Sequence[Message]) -> tuple[int, ...]:
        prompt = build(asked, thinking.prompt_thought)
        last = asked if isinstance(asked, str) else asked[-1]["content"]
        _check_end(reader, prompt, f'"{last[:40]}..."', config.reward)
        state = reader.prompt_thought(prompt)
        # A template may look for a switch in the problem, such as /no_think.
        return prompt if state == thinking.prompt_thought else build(asked, state)

    return make


def demonstration_writer(
    thinking: Thinking,
) -> Callable[[tuple[int, ...], str], tuple[str, str | None]]:
    """Return (prompt token ids, response of a file) to the response to imitate, and its fault."""
    reader = thinking.reader

    def write(prompt: tuple[int, ...], text: str) -> tuple[str, str | None]:
        state, end = reader.prompt_thought(prompt), reader.prompt_end(prompt)
        written = write_demonstration(text, reader.think_format, state, prompt_end=end)
        return written, read_text(written, reader.think_format, state).fault

    return write


def _format_of(
    reward: RewardConfig, tokenizer: Any, template: str, probe: tuple[int, ...]
) -> Recognised:
    if reward.thinking != "auto":
        return Recognised(think_format=_named(reward), reason="reward.thinking")
    return recognise(
        prompt_end=TokenReader(tokenizer, "none").prompt_end(probe),
        template=template,
        added_tokens=tokenizer.get_added_vocab().keys(),
    )


def _named(reward: RewardConfig) -> ThinkFormat:
    setting = reward.thinking
    assert setting != "auto", "has to be recognised"
    return setting if isinstance(setting, str) else Tags(open=setting[0], close=setting[1])


def _check_end(
    reader: TokenReader, prompt: tuple[int, ...], name: str, reward: RewardConfig
) -> None:
    """Refuse a prompt that opens or closes a thought in known tags that are not in force."""
    if reader.think_format == "none":
        return
    other = tags_at_end(reader.prompt_end(prompt))
    if other is not None and other != reader.think_format:
        raise ConfigError(
            f"reward.thinking ({_given(reward)}) must name the tags with which prompts end, and "
            f'that of {name} ends with one of {other}; set it to ["{other.open}", '
            f'"{other.close}"] or "auto"'
        )


def _given(reward: RewardConfig) -> str:
    setting = reward.thinking
    return f'"{setting}"' if isinstance(setting, str) else f'["{setting[0]}", "{setting[1]}"]'
