import copy
from pathlib import Path
from typing import Any, get_args

import pytest

from megatron_rl.data.prompts import (
    ThoughtsAsked,
    build_prompt,
    load_system_prompt,
    longest_prompt,
    too_long,
)
from megatron_rl.data.system_message import is_left_out
from megatron_rl.data.vocabulary import check_token_ids
from megatron_rl.errors import DataError, ModelError

VARIANTS = get_args(ThoughtsAsked)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level tokenizer of a real class: one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def load(
    setting: Any, *, thoughts: Any = "own_tags", tags: Any = ("<think>", "</think>")
) -> str | None:
    return load_system_prompt(setting, thoughts=thoughts, tags=tags)


def test_a_prompt_is_system_text_then_problem_then_the_turn_of_the_model(tokenizer):
    prompt = build_prompt(tokenizer, "1+1?", system_prompt="Think.", template_kwargs={})
    assert tokenizer.decode(prompt) == "system:Think.\nuser:1+1?\nassistant:"
    assert all(type(token_id) is int for token_id in prompt)


def test_without_system_prompt_there_is_no_system_turn(tokenizer):
    prompt = build_prompt(tokenizer, "1+1?", system_prompt=None, template_kwargs={})
    assert tokenizer.decode(prompt) == "user:1+1?\nassistant:"


def test_a_chat_is_asked_as_it_is_and_its_system_message_comes_first(tokenizer):
    chat = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "+1?"},
    ]
    told = "user:1+1?\nassistant:2\nuser:+1?\nassistant:"

    def prompt_of(asked, system_prompt):
        return tokenizer.decode(
            build_prompt(tokenizer, asked, system_prompt=system_prompt, template_kwargs={})
        )

    assert prompt_of(chat, None) == told
    assert prompt_of(chat, "Think.") == f"system:Think.\n{told}"
    own = [{"role": "system", "content": "Be brief."}, *chat]
    assert prompt_of(own, "Think.") == f"system:Be brief.\n{told}"


def test_the_limit_of_a_prompt_is_what_a_server_and_the_completion_leave():
    room = {"context_length": 32, "max_new_tokens": 10}  # a server fills 30
    assert longest_prompt(**room) == 20
    text = too_long("p9", 21, **room)
    for fact in ('"p9"', "21 tokens", "limit is 20", "32", "generators.context_length"):
        assert fact in text


def test_a_tokenizer_without_chat_template_is_refused(tokenizer):
    class Bare:
        chat_template = None

    with pytest.raises(ModelError, match="no chat template"):
        build_prompt(Bare(), "1+1?", system_prompt=None, template_kwargs={})


def test_the_default_system_prompt_asks_for_the_format_that_is_rewarded():
    text = load("default")
    assert text is not None
    assert (
        "Open your response with <think> and" in text and "Close this part with </think>." in text
    )
    assert "language of the task" in text
    assert "[THINK]" in load("default", tags=("[THINK]", "[/THINK]"))


def test_a_default_system_prompt_asks_for_no_tag_that_is_not_the_policys_to_write():
    texts = {name: load("default", thoughts=name) for name in VARIANTS}
    assert {name for name, text in texts.items() if "</think>" in text} == {
        "own_tags",
        "opened_by_prompt",
    }
    assert "\n<think>\n" in texts["own_tags"]
    assert "\n<think>\n" not in texts["opened_by_prompt"]
    assert "channel analysis" in texts["channels"] and "channel final" in texts["channels"]
    assert "think" not in texts["answer_only"]
    assert not [name for name, text in texts.items() if "{" in text]


def test_a_system_prompt_may_be_none_or_a_file_but_not_nothing(tmp_path: Path):
    assert load("none") is None
    path = tmp_path / "prompt.txt"
    path.write_text("Think.\n")
    assert load(path) == "Think."
    path.write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        load(path)
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "nowhere.txt")


NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "system_prompt", "message"),
    [
        (
            NO_SYSTEM + TEMPLATE,
            "Think.",
            r"system message.*: No system role; .*system_prompt = \"n",
        ),
        ("{{ raise_exception('never') }}", None, r"fails on a user message: never; correct it$"),
        ("{{ messages.content.x }}", None, r"fails on a user message: .* has no attribute"),
        ("{{ 1 + messages[0].content }}", None, r"fails on a user message: unsupported operand"),
        ("{% for m in messages %}", None, r"fails on a user message: Unexpected end of template"),
    ],
)
def test_a_template_that_refuses_its_messages_is_named(tokenizer, template, system_prompt, message):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    with pytest.raises(ModelError, match=message):
        build_prompt(other, "1+1?", system_prompt=system_prompt, template_kwargs={})


def test_a_template_that_refuses_system_messages_takes_problems_alone(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = NO_SYSTEM + TEMPLATE
    prompt = build_prompt(other, "1?", system_prompt=None, template_kwargs={})
    assert other.decode(prompt) == "user:1?\nassistant:"


@pytest.mark.parametrize(
    ("template", "is_expected"),
    [
        (TEMPLATE, False),
        ("{% for m in messages %}{{ m.content | trim | upper }}{% endfor %}", False),
        ("{{ messages[-1].content }}", True),
        (
            "Help.{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
            True,
        ),
    ],
)
def test_a_system_message_that_the_template_leaves_out_is_found(tokenizer, template, is_expected):
    other = copy.deepcopy(tokenizer)
    other.chat_template = template

    def prompt_of(text):
        return build_prompt(other, "?", system_prompt=text, template_kwargs={})

    assert is_left_out(prompt_of) == is_expected


def test_a_token_beyond_the_vocabulary_is_named_and_a_larger_model_is_fine():
    sequences = [("a", (0, 4)), ("b", (1, 7, 2))]
    check_token_ids(sequences, vocab_size=8, token_of=str)
    check_token_ids(sequences, vocab_size=100, token_of=str)
    with pytest.raises(ModelError) as error:
        check_token_ids(sequences, vocab_size=7, token_of={7: "<new>"}.get)
    assert str(error.value).startswith("b has token id 7 ('<new>'), and must have ids < vocab_size")
    assert "(7)" in str(error.value) and "resize_token_embeddings" in str(error.value)
