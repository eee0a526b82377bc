"""Think formats: the marks by which the thoughts of a response are told from its answer.

Whether the prompt has opened the thought is read from the end of each rendered prompt. A mark that
is one token of the vocabulary is found by its id, any other mark in the text.

Example: a prompt that ends with ``<think>`` and a completion of ``2.</think>\\boxed{2}`` give
``Response(thoughts="2.", answer="\\boxed{2}", fault=None)``.
"""

from megatron_rl.thinking.demonstrations import write_demonstration
from megatron_rl.thinking.formats import KNOWN_TAGS, THINK, Tags, ThinkFormat
from megatron_rl.thinking.prompt_end import tags_at_end
from megatron_rl.thinking.recognition import Recognised, recognise
from megatron_rl.thinking.text_reader import read_text
from megatron_rl.thinking.token_reader import TokenReader
from megatron_rl.thinking.vocabulary import find_vocabulary_fault

__all__ = [
    "KNOWN_TAGS",
    "THINK",
    "Recognised",
    "Tags",
    "ThinkFormat",
    "TokenReader",
    "find_vocabulary_fault",
    "read_text",
    "recognise",
    "tags_at_end",
    "write_demonstration",
]
