"""The demo's tiny Qwen3: its configuration and a byte-level BPE tokenizer made for the corpus."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config

SPECIAL = ("<pad>", "<eos>", "<system>", "<user>", "<assistant>")
"""Never part of decoded text."""
MARKERS = ("<think>", "</think>", "\\boxed{")
"""One token each, but text like any other: the verifier has to see them."""
# A word takes the space before it; a digit always stands alone, so that columns can be aligned.
SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]|\s"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def make_tokenizer(
    corpus: Iterable[str], *, vocab_size: int, max_length: int
) -> PreTrainedTokenizerFast:
    """Train a tokenizer that reproduces any text exactly; ids of equal corpora are equal."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(MARKERS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    core.train_from_iterator(_without_markers(corpus), trainer)
    # A model samples any of its ids, so each of them has to be decodable.
    unused = vocab_size - len(MARKERS) - core.get_vocab_size()
    core.add_special_tokens([f"<unused{i}>" for i in range(unused)])
    core.add_tokens([AddedToken(marker, special=False, normalized=False) for marker in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def write_configs(
    model_dir: Path, tokenizer: PreTrainedTokenizerFast, *, max_length: int, width: int
) -> None:
    """Write config.json and generation_config.json of a model of so many hidden units."""
    config = Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        head_dim=32,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        dtype="float32",
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.save_pretrained(model_dir)
    GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    ).save_pretrained(model_dir)


def _without_markers(corpus: Iterable[str]) -> Iterable[str]:
    for text in corpus:
        for marker in MARKERS:
            text = text.replace(marker, "\n")
        yield text
