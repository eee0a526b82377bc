"""Completions of every shape of model, read by token ids after the prompts of their templates."""

import pytest

from megatron_rl.thinking import Tags, TokenReader, recognise
from megatron_rl.types import Response
from tests.think_tokenizers import KIMI, SHAPES, ids_of, prompt_of, spelled, think_tokenizer

TOKENIZERS = {shape: think_tokenizer(shape) for shape in SHAPES}
FORMATS = {
    **dict.fromkeys(SHAPES, Tags(open="<think>", close="</think>")),
    "magistral": Tags(open="[THINK]", close="[/THINK]"),
    "gpt-oss": "harmony",
    "kimi": Tags(open=KIMI[0], close=KIMI[1]),
}
STATES = {
    **dict.fromkeys(SHAPES, "unopened"),
    **dict.fromkeys(("qwen3-thinking-2507", "r1-new", "r1-in-text", "kimi"), "opened"),
}
WELL_FORMED = {
    "plain": "<think>a</think>b",
    "qwen3": "<think>a</think>b<|im_end|>",
    "qwen3-thinking-2507": "a</think>b<|im_end|>",
    "r1-old": "<think>a</think>b<|eos|>",
    "r1-new": "a</think>b<|eos|>",
    "r1-in-text": "a</think>b<|eos|>",
    "magistral": "[THINK]a[/THINK]b</s>",
    "gpt-oss": (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b"
        "<|return|>"
    ),
    "kimi": f"a{KIMI[1]}b<|im_end|>",
}


def read(shape: str, text: str, **kwargs: object) -> tuple[str, Response]:
    tokenizer = TOKENIZERS[shape]
    reader = TokenReader(tokenizer, FORMATS[shape])
    return reader(prompt_of(tokenizer, **kwargs), ids_of(tokenizer, text))


def fault(shape: str, text: str, **kwargs: object) -> str | None:
    return read(shape, text, **kwargs)[1].fault


@pytest.mark.parametrize("shape", SHAPES)
def test_a_format_is_recognised_from_tokenizer_and_template(shape):
    tokenizer = TOKENIZERS[shape]
    prompt = prompt_of(tokenizer)
    found = recognise(
        prompt_end=tokenizer.decode(prompt[-20:]),
        template=tokenizer.chat_template,
        added_tokens=tokenizer.get_added_vocab(),
    )
    assert found.think_format == FORMATS[shape]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_end_of_the_prompt_says_who_opens_the_thought(shape):
    tokenizer = TOKENIZERS[shape]
    reader = TokenReader(tokenizer, FORMATS[shape])
    assert reader.prompt_thought(prompt_of(tokenizer)) == STATES[shape]


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_model_writes_is_thoughts_and_answer(shape):
    text, response = read(shape, WELL_FORMED[shape])
    assert response == Response(thoughts="a", answer="b", fault=None)
    # Marks are shown, the end of the turn is not, unless it is a mark of harmony.
    hidden = ("<|im_end|>", "<|eos|>", "</s>")
    assert text == next(
        (WELL_FORMED[shape].removesuffix(end) for end in hidden if end in WELL_FORMED[shape]),
        WELL_FORMED[shape],
    )


def test_a_template_argument_closes_the_thought_in_the_prompt():
    text, response = read("qwen3", "b<|im_end|>", enable_thinking=False)
    assert (text, response) == ("b", Response(thoughts=None, answer="b", fault=None))
    assert fault("qwen3", "b<|im_end|>", enable_thinking=True) == "does not start with <think>"


@pytest.mark.parametrize("shape", ["qwen3", "magistral", "plain"])
@pytest.mark.parametrize("where", ["problem", "system"])
def test_tags_before_the_end_of_a_prompt_do_not_matter(shape, where):
    tags = FORMATS[shape]
    assert isinstance(tags, Tags)
    typed = {where: f"what does {tags.open} mean, and {tags.open}\n {tags.close}?"}
    assert fault(shape, WELL_FORMED[shape], **typed) is None
    assert fault(shape, "a" + tags.close + "b", **typed) == f"does not start with {tags.open}"


@pytest.mark.parametrize(
    ("shape", "text", "expected"),
    [
        ("qwen3", "b", "does not start with <think>"),
        ("qwen3", "", "does not start with <think>"),
        ("qwen3", " <think>a</think>b", "does not start with <think>"),
        ("qwen3", "a</think>b", "does not start with <think>"),
        ("qwen3", "<think>a", "has 0 </think> tags instead of 1"),
        ("qwen3", "<think>a</think>b</think>", "has 2 </think> tags instead of 1"),
        ("qwen3", "<think>a<think></think>b", "has 2 <think> tags instead of 1"),
        ("r1-new", "b", "has 0 </think> tags instead of 1"),
        ("r1-new", "a</think>b</think>", "has 2 </think> tags instead of 1"),
        (
            "r1-new",
            "<think>a</think>b",
            "has 2 <think> tags instead of 1, with that of the prompt",
        ),
        ("r1-in-text", "<think>a</think>b", "has 2 <think> tags instead of 1, with that of the pr"),
        ("magistral", "<think>a</think>b", "does not start with [THINK] but with <think>; reward"),
    ],
)
def test_every_response_without_exactly_one_pair_is_refused(shape, text, expected):
    found = fault(shape, text)
    assert found is not None and found.startswith(expected)
    _, response = read(shape, text)
    assert response.thoughts is None


def test_a_tag_spelled_in_other_tokens_is_none_and_the_reason_says_so():
    tokenizer = TOKENIZERS["qwen3"]
    reader = TokenReader(tokenizer, FORMATS["qwen3"])
    prompt = prompt_of(tokenizer)
    text, response = reader(prompt, spelled(tokenizer, "<think>a</think>b"))
    assert text == "<think>a</think>b"
    assert response.fault is not None and "spells in several tokens" in response.fault
    inside = (*ids_of(tokenizer, "<think>"), *spelled(tokenizer, "a</think>"))
    _, response = reader(prompt, (*inside, *ids_of(tokenizer, "</think>b")))
    assert response == Response(thoughts="a</think>", answer="b", fault=None)


def test_tags_survive_though_special_tokens_are_hidden():
    text, response = read("magistral", "[THINK]a[INST][/THINK]b[/INST]c</s>")
    assert text == "[THINK]a[/THINK]bc"
    assert response == Response(thoughts="a", answer="bc", fault=None)


def test_none_makes_the_whole_response_the_answer():
    tokenizer = TOKENIZERS["r1-new"]
    reader = TokenReader(tokenizer, "none")
    _, response = reader(prompt_of(tokenizer), ids_of(tokenizer, "a</think>b<|eos|>"))
    assert response == Response(thoughts=None, answer="a</think>b", fault=None)


def test_half_a_character_before_a_tag_is_no_error():
    tokenizer = TOKENIZERS["qwen3"]
    half = ids_of(tokenizer, "\u00e9")[:1]
    completion = (*ids_of(tokenizer, "<think>"), *half, *ids_of(tokenizer, "</think>b"))
    _, response = TokenReader(tokenizer, FORMATS["qwen3"])(prompt_of(tokenizer), completion)
    assert response == Response(thoughts="\ufffd", answer="b", fault=None)
