"""Messages in channels: thoughts, the answer, and what is neither."""

import pytest

from megatron_rl.thinking import TokenReader, read_text
from megatron_rl.types import Response
from tests.think_tokenizers import ids_of, think_tokenizer

THOUGHTS = "<|channel|>analysis<|message|>a<|end|>"
TURN = "<|start|>assistant"
FINAL = "<|channel|>final<|message|>b"


def read(text: str, state: str = "unopened") -> Response:
    return read_text(text, "harmony", state)


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        (f"{THOUGHTS}{TURN}{FINAL}<|return|>", "a"),
        (f"{THOUGHTS}{TURN}{FINAL}", "a"),  # cut off, or its end hidden
        (f"{TURN}{THOUGHTS}{TURN}{FINAL}", "a"),  # the whole turn, as a person may paste it
        (f"{THOUGHTS}{TURN}<|channel|>commentary<|message|>c<|end|>{TURN}{FINAL}", "a\nc"),
        (f"{THOUGHTS}{TURN}<|channel|>final <|constrain|>json<|message|>b", "a"),
    ],
)
def test_analysis_and_commentary_are_thoughts_and_final_is_the_answer(text, thoughts):
    assert read(text) == Response(thoughts=thoughts, answer="b", fault=None)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "has a message without <|message|>"),
        ("b", "has a message without <|message|>"),
        ("<|message|>b", "has a message without a channel"),
        (FINAL, "has no message in the channel analysis before the final one"),
        ("<|channel|>analysis<|message|>a", "has 0 messages in the channel final instead of 1"),
        (f"{THOUGHTS}b", "has text outside of its messages"),
        (f"{THOUGHTS}{TURN}{FINAL}<|end|>{TURN}{FINAL}", "has 2 messages in the channel final"),
        (f"{THOUGHTS}{TURN}{FINAL}<|end|>{TURN}{THOUGHTS}", "goes on after its message in"),
        (f"{THOUGHTS}{TURN}<|channel|>thoughts<|message|>b", 'in the channel "thoughts"'),
        (f"{THOUGHTS}<|start|>user<|channel|>final<|message|>b", 'of the role "user"'),
        (f"{THOUGHTS}{TURN} to=f<|channel|>commentary<|message|>b", "calls a tool"),
        (f"{THOUGHTS}{TURN}<|channel|>commentary to=f<|message|>b", "calls a tool"),
        (f"{THOUGHTS}{TURN}<|channel|>commentary<|message|>b<|call|>", "calls a tool"),
        ("<|channel|>analysis<|message|>a<|channel|>final<|message|>b", "inside of a message"),
        ("<|channel|>analysis<|message|>a<|start|>assistant", "has <|start|> inside of a message"),
    ],
)
def test_anything_else_is_refused_with_its_reason(text, fault):
    response = read(text)
    assert response.fault is not None and fault in response.fault
    assert (response.thoughts, response.answer) == (None, text)


def test_a_prompt_may_open_the_thought_or_close_it():
    assert read(f"a<|end|>{TURN}{FINAL}", "opened") == Response(
        thoughts="a", answer="b", fault=None
    )
    for text in ("b<|return|>", FINAL):
        assert read(text, "closed") == Response(thoughts=None, answer="b", fault=None)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("<|start|>user<|message|>?<|end|><|start|>assistant", "unopened"),
        ("<|start|>assistant<|channel|>analysis<|message|>", "opened"),
        ("<|start|>assistant<|channel|>final<|message|>", "closed"),
        ("<|start|>assistant<|channel|>analysis<|message|><|end|><|start|>assistant", "closed"),
        ("<|start|>assistant<|channel|>final<|message|>x<|end|><|start|>assistant", "unopened"),
        ("no marks", "unopened"),
    ],
)
def test_the_end_of_the_prompt_is_read_by_its_marks(end, state):
    tokenizer = think_tokenizer("gpt-oss")
    reader = TokenReader(tokenizer, "harmony")
    assert reader.prompt_thought(ids_of(tokenizer, end)) == state


def test_a_marker_that_is_spelled_is_text():
    tokenizer = think_tokenizer("gpt-oss")
    spelled = tuple(i for c in "<|end|>" for i in ids_of(tokenizer, c))
    start = ids_of(tokenizer, "<|channel|>analysis<|message|>a")
    rest = ids_of(tokenizer, f"<|end|>{TURN}{FINAL}<|return|>")
    _, response = TokenReader(tokenizer, "harmony")(ids_of(tokenizer, TURN), start + spelled + rest)
    assert response == Response(thoughts="a<|end|>", answer="b", fault=None)
