"""Demonstrations: chat prompt, response, end of sequence; too long is an error by number."""

from pathlib import Path

import pytest

from megatron_rl.data.prompts import build_prompt
from megatron_rl.data.sft_files import SftPair
from megatron_rl.data.sft_tokens import build_demonstrations
from megatron_rl.errors import DataError, ModelError

PATH = Path("pairs.jsonl")
PAIRS = [SftPair(prompt="1+1?", response="2"), SftPair(prompt="2+2?", response="four")]


@pytest.fixture
def tokenizer():
    """Byte-level tokenizer of a real class: one token per byte, and <eos>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    return tokenizer


def build(tokenizer, *, system_prompt=None, max_tokens=1000):
    return build_demonstrations(
        tokenizer,
        PAIRS,
        path=PATH,
        make_prompt=lambda text: build_prompt(
            tokenizer, text, system_prompt=system_prompt, template_kwargs={}
        ),
        write_response=lambda prompt, response: response.replace("four", "4!"),
        turn_end=tokenizer.eos_token_id,
        max_tokens=max_tokens,
    )


def test_a_demonstration_is_prompt_then_response_then_end_of_sequence(tokenizer):
    first, second = build(tokenizer)
    assert tokenizer.decode(first.token_ids) == "user:1+1?\nassistant:2<eos>"
    assert tokenizer.decode(second.token_ids[second.prompt_length :]) == "4!<eos>"
    assert first.token_ids[-1] == tokenizer.eos_token_id


def test_the_prompt_is_the_one_generators_get(tokenizer):
    first, _ = build(tokenizer, system_prompt="Think.")
    prompt = build_prompt(tokenizer, "1+1?", system_prompt="Think.", template_kwargs={})
    assert first.token_ids[: first.prompt_length] == prompt


def test_a_pair_over_the_limit_is_named_and_one_at_the_limit_is_not(tokenizer):
    longest = max(len(demonstration.token_ids) for demonstration in build(tokenizer))
    build(tokenizer, max_tokens=longest)
    with pytest.raises(DataError, match=rf"pairs\.jsonl: pair 2 has {longest} tokens"):
        build(tokenizer, max_tokens=longest - 1)


def test_a_tokenizer_without_end_of_sequence_is_refused(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no eos_token"):
        build(tokenizer)
