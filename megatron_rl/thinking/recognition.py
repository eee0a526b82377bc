"""Recognition of a model's think format from its tokenizer and chat template, never its name."""

from collections.abc import Collection
from dataclasses import dataclass

from megatron_rl.thinking import harmony
from megatron_rl.thinking.formats import KNOWN_TAGS, THINK, Tags, ThinkFormat
from megatron_rl.thinking.prompt_end import tags_at_end


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognised:
    """A think format and what showed it."""

    think_format: ThinkFormat
    reason: str
    """Continues "because"."""


def recognise(*, prompt_end: str, template: str, added_tokens: Collection[str]) -> Recognised:
    """Return the format of a model; ``<think>`` in plain text where nothing shows another.

    Args:
        prompt_end: end of a rendered prompt, special tokens shown.
        template: the chat template.
        added_tokens: tokens that text is split at before anything else.
    """
    tags = tags_at_end(prompt_end)
    if tags is not None:
        return Recognised(think_format=tags, reason="prompts end with it")
    if all(mark in template and mark in added_tokens for mark in harmony.NEEDED_MARKS[:3]):
        reason = "the chat template writes its marks"
        return Recognised(think_format="harmony", reason=reason)
    mentioned = [tags for tags in KNOWN_TAGS if tags.open in template or tags.close in template]
    one_token = [tags for tags in mentioned if _is_in(tags, added_tokens)]
    if one_token:
        reason = "the chat template mentions the tags, which are tokens of the vocabulary"
        return Recognised(think_format=one_token[0], reason=reason)
    if mentioned:
        reason = "the chat template mentions the tags"
        return Recognised(think_format=mentioned[0], reason=reason)
    return Recognised(think_format=THINK, reason="neither prompts nor chat template show another")


def _is_in(tags: Tags, added_tokens: Collection[str]) -> bool:
    return tags.open in added_tokens and tags.close in added_tokens
