"""What is written is read again: demonstrations in the format in force, after every prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.thinking import KNOWN_TAGS, THINK, Tags, TokenReader, write_demonstration
from tests.think_tokenizers import KIMI, ids_of, prompt_of, think_tokenizer

# Prompts of every state, by shape of model and arguments of its template.
PROMPTS = [
    ("plain", THINK, {}),
    ("qwen3", THINK, {}),
    ("qwen3", THINK, {"enable_thinking": False}),
    ("qwen3-thinking-2507", THINK, {}),
    ("r1-old", THINK, {}),
    ("r1-new", THINK, {}),
    ("r1-in-text", THINK, {}),
    ("magistral", Tags(open="[THINK]", close="[/THINK]"), {}),
    ("gpt-oss", "harmony", {}),
    ("kimi", Tags(open=KIMI[0], close=KIMI[1]), {}),
]
TOKENIZERS = {shape: think_tokenizer(shape) for shape, *_ in PROMPTS}
# No text of a mark or of a special token, which a tokenizer would take for the token.
_PROSE = st.text(
    st.characters(exclude_characters="<>[]\u25c1\u25b7", exclude_categories=["Cs"]), max_size=20
)


@given(st.sampled_from(PROMPTS), _PROSE, _PROSE)
def test_thoughts_and_answer_survive_writing_and_reading(case, thoughts, answer):
    shape, think_format, kwargs = case
    tokenizer = TOKENIZERS[shape]
    reader = TokenReader(tokenizer, think_format)
    prompt = prompt_of(tokenizer, **kwargs)
    state, end = reader.prompt_thought(prompt), reader.prompt_end(prompt)
    written = write_demonstration(
        f"<think>{thoughts}</think>{answer}", think_format, state, prompt_end=end
    )
    _, response = reader(prompt, ids_of(tokenizer, written))
    assert response.fault is None
    # Blanks that the prompt has written are not written again.
    if state == "closed":
        assert response.thoughts is None
        assert response.answer in (answer, answer.removeprefix("\n\n"))
        return
    assert response.answer == answer
    assert response.thoughts == (thoughts.removeprefix("\n") if state == "opened" else thoughts)


@pytest.mark.parametrize(
    ("think_format", "state", "end", "written"),
    [
        (THINK, "unopened", "\n", "<think>\na</think>\n\nb"),
        (THINK, "opened", "<think>\n", "a</think>\n\nb"),
        (THINK, "opened", "<think>", "\na</think>\n\nb"),
        (THINK, "closed", "</think>\n\n", "b"),
        (KNOWN_TAGS[1], "unopened", "", "[THINK]\na[/THINK]\n\nb"),
        ("none", "closed", "", "<think>\na</think>\n\nb"),
        (
            "harmony",
            "unopened",
            "<|start|>assistant",
            "<|channel|>analysis<|message|>\na<|end|>"
            "<|start|>assistant<|channel|>final<|message|>\n\nb",
        ),
        ("harmony", "closed", "<|channel|>final<|message|>", "\n\nb"),
        ("harmony", "closed", "<|start|>assistant", "<|channel|>final<|message|>\n\nb"),
    ],
)
def test_the_tags_of_a_file_become_those_in_force(think_format, state, end, written):
    text = "<think>\na</think>\n\nb"
    assert write_demonstration(text, think_format, state, prompt_end=end) == written


def test_a_demonstration_in_the_models_own_tags_loses_what_the_prompt_wrote():
    text = "[THINK]a[/THINK]b"
    for state, written in (("unopened", text), ("opened", "a[/THINK]b")):
        assert write_demonstration(text, KNOWN_TAGS[1], state, prompt_end="x") == written


@pytest.mark.parametrize("text", ["b", "a</think>b", "<think>a", "<think>a</think>b</think>"])
def test_a_demonstration_in_no_format_stays_as_it_is(text):
    assert write_demonstration(text, KNOWN_TAGS[1], "unopened", prompt_end="") == text
