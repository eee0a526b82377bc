"""Variables of a chat template, and the token that ends a turn in it."""

import pytest

from megatron_rl.data.chat_template import (
    check_template_kwargs,
    choose_turn_end,
    find_turn_end,
    template_text,
)
from megatron_rl.errors import ConfigError
from tests.think_tokenizers import think_tokenizer


@pytest.mark.parametrize(
    ("shape", "end"),
    [
        ("plain", None),
        ("qwen3", "<|im_end|>"),
        ("r1-new", "<|eos|>"),
        ("magistral", "</s>"),
        ("gpt-oss", "<|return|>"),
    ],
)
def test_the_end_of_a_turn_is_the_first_token_after_the_answer(shape, end):
    tokenizer = think_tokenizer(shape)
    found = find_turn_end(tokenizer, template_kwargs={})
    assert found == (None if end is None else tokenizer.convert_tokens_to_ids(end))


@pytest.mark.parametrize(
    "template", ["{{ raise_exception('no') }}", "{{ messages[0].content }}", "{{ messages.x.y }}"]
)
def test_a_template_that_renders_no_finished_turn_has_no_end(template):
    tokenizer = think_tokenizer("qwen3")
    tokenizer.chat_template = template
    assert find_turn_end(tokenizer, template_kwargs={}) is None


def test_the_template_decides_where_servers_stop_at_its_end_and_else_the_tokenizer():
    assert choose_turn_end(7, stop_ids={1, 7}, eos_id=1) == 7
    assert choose_turn_end(7, stop_ids={1}, eos_id=1) == 1
    assert choose_turn_end(None, stop_ids={1}, eos_id=1) == 1
    assert choose_turn_end(None, stop_ids={1}, eos_id=None) is None


def test_a_variable_that_no_template_reads_is_refused():
    template = template_text(think_tokenizer("qwen3"))
    check_template_kwargs(template, {"enable_thinking": False})
    with pytest.raises(ConfigError, match=r"data\.template_kwargs\.enable_thinkin \(False\)"):
        check_template_kwargs(template, {"enable_thinkin": False})


def test_all_of_several_templates_are_searched():
    tokenizer = think_tokenizer("qwen3")
    tokenizer.chat_template = {"default": "{{ a }}", "tools": "{{ b }}"}
    assert template_text(tokenizer) == "{{ a }}\n{{ b }}"
    tokenizer.chat_template = None
    assert template_text(tokenizer) == ""
