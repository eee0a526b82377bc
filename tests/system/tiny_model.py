"""Tiny random Qwen3 with a tiny byte-level tokenizer: a real model folder in half a second."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

VOCAB_SIZE = 512
_CORPUS = ["the quick brown fox jumps over the lazy dog 0123456789 + - * / = ( ) \\boxed{ }"] * 3


def build_tiny_model(*, seed: int, dtype: torch.dtype = torch.float32) -> Qwen3ForCausalLM:
    """Return a Qwen3 of 2 layers, hidden size 128, vocabulary 512, random by ``seed``."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.1,  # the default 0.02 gives nearly uniform log-probs: a weak test
    )
    return Qwen3ForCausalLM(config).to(dtype).eval()


def write_tiny_model(folder: Path, *, seed: int, dtype: torch.dtype = torch.float32) -> Path:
    """Write weights, config and tokenizer as a Hugging Face folder; return the folder."""
    build_tiny_model(seed=seed, dtype=dtype).save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


def build_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer; ids 0 and 1 are padding and end of sequence."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<pad>", "<eos>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
