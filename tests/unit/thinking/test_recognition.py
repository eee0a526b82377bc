"""Formats that templates show, and marks that a tokenizer cannot write."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from megatron_rl.thinking import KNOWN_TAGS, THINK, Tags, find_vocabulary_fault, recognise
from tests.think_tokenizers import think_tokenizer

SQUARE = KNOWN_TAGS[1]


def format_of(*, prompt_end: str = "", template: str = "", added: tuple[str, ...] = ()) -> object:
    return recognise(prompt_end=prompt_end, template=template, added_tokens=added).think_format


def test_the_end_of_the_prompt_counts_before_everything_else():
    assert format_of(prompt_end="x<think>\n", template="[THINK]", added=(SQUARE.open,)) == THINK
    assert format_of(prompt_end="x[/THINK]\n\n", template="<think>") == SQUARE


def test_tags_that_are_tokens_count_before_tags_in_text():
    both = "{# <think> or [THINK] #}"
    assert format_of(template=both, added=(SQUARE.open, SQUARE.close)) == SQUARE
    assert format_of(template=both) == THINK


def test_a_token_that_the_template_does_not_mention_shows_nothing():
    assert format_of(template="plain", added=(SQUARE.open, SQUARE.close)) == THINK


def test_harmony_takes_its_tokens_as_well_as_its_template():
    marks = ("<|start|>", "<|channel|>", "<|message|>")
    assert format_of(template="".join(marks), added=marks) == "harmony"
    assert format_of(template="".join(marks)) == THINK


@pytest.mark.parametrize(
    ("shape", "think_format", "fault"),
    [
        ("plain", THINK, None),
        ("plain", Tags(open="\u25c1", close="\u25b7"), None),
        ("plain", "none", None),
        ("gpt-oss", "harmony", None),
        ("plain", "harmony", "has no token <|start|>, <|channel|>, <|message|>, <|end|>, <|return"),
        # Two special tokens: decoding hides them, and they are no tag of one token.
        ("magistral", Tags(open="[INST]<s>", close="x"), "cannot write [INST]<s>"),
    ],
)
def test_marks_that_cannot_be_written_are_named(shape, think_format, fault):
    found = find_vocabulary_fault(think_tokenizer(shape), think_format)
    assert found == fault if fault is None else fault in found


def test_a_vocabulary_of_words_has_no_tags():
    core = Tokenizer(models.WordLevel({"?": 0, "one": 1}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    found = find_vocabulary_fault(PreTrainedTokenizerFast(tokenizer_object=core), THINK)
    assert found is not None and found.startswith("the tokenizer cannot write <think>")
