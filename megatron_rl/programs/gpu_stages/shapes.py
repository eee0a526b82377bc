"""Shapes of made-up models, and their folders with random weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.hf_folder import random_tensor

KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of a Qwen3."""

    name: str
    sizes: tuple[int, int, int, int, int, int]
    """In the order of KEYS."""
    std: float = 0.02
    """Of random weights. Scores have to differ for a wrong position or mask to show: a small model
    needs more."""

    @property
    def vocab_size(self) -> int:
        """Of token ids."""
        return self.sizes[-1]

    def config(self, *, max_positions: int) -> dict[str, Any]:
        """Return the config.json."""
        sizes = dict(zip(KEYS, self.sizes, strict=True))
        return {
            **sizes,
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "head_dim": sizes["hidden_size"] // sizes["num_attention_heads"],
            "max_position_embeddings": max_positions,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1e6,
            "hidden_act": "silu",
            "attention_bias": False,
            "initializer_range": self.std,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }


def read_shape(text: str) -> Shape:
    """Return the shape of six numbers with commas between them, in the order of KEYS."""
    layers, hidden, heads, groups, ffn, vocab = map(int, text.split(","))
    return Shape(name=text, sizes=(layers, hidden, heads, groups, ffn, vocab))


def write_config(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write a model folder of config.json alone; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def write_model(folder: Path, config: Mapping[str, Any], *, dtype: str, seed: int) -> Path:
    """Write config, random weights and a tokenizer that knows nothing but its size.

    A folder that is there already is left as it is.
    """
    if (folder / "tokenizer.json").exists():  # written last
        return folder
    import torch
    from safetensors.torch import save_file

    write_config(folder, config)
    weights = {
        name: random_tensor(name, shape, std=config["initializer_range"], seed=seed).to(
            getattr(torch, dtype)
        )
        for name, shape in tensor_shapes(model_spec(dict(config)))
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_tokenizer(folder, config["vocab_size"])
    return folder


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"t{i}": i for i in range(vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="t0", eos_token="t1"
    ).save_pretrained(folder)
