"""The models that the benchmarks use, as Hugging Face folders without weights, and learners."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_rl.config import RunConfig, resolve
from megatron_rl.programs.processes.logs import start_logging
from megatron_rl.sequences import Sequences

LEARNING_RATE = 1e-4
TOKEN_BUDGET = 2048
CONTEXT = 256
VOCAB_SIZE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Size of a Qwen3."""

    num_layers: int
    hidden_size: int
    vocab_size: int

    def config(self) -> dict[str, Any]:
        """Return the config.json."""
        heads = self.hidden_size // 32
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "intermediate_size": 3 * self.hidden_size,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": 32,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "attention_bias": False,
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "dtype": "float32",
        }


DEMO = Shape(num_layers=2, hidden_size=256, vocab_size=VOCAB_SIZE)
LARGER = Shape(num_layers=4, hidden_size=512, vocab_size=VOCAB_SIZE)


def write_model(folder: Path, shape: Shape) -> Path:
    """Write config and a tokenizer that knows nothing but its size; return the folder."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"t{i}": i for i in range(shape.vocab_size)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=1))
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="t0", eos_token="t1"
    ).save_pretrained(folder)
    return folder


def run_config(run_dir: Path, model: Path, *, in_flight: int, init: str = "random") -> RunConfig:
    """Return the settings of a run on this machine: one server, one rank, one thread each."""
    return resolve(
        {
            "run_dir": run_dir,
            "num_steps": 1_000_000,
            "model": {"path": model, "init": init, "dtype": "float32"},
            "data": {"train": model / "none"},
            "generators": {
                "context_length": CONTEXT,
                "sampling": {"max_new_tokens": CONTEXT - 1},
                "sglang": {"max-running-requests": in_flight},
            },
            "learner": {
                "token_budget": TOKEN_BUDGET,
                "optimizer": {"lr": LEARNING_RATE, "warmup_steps": 0},
            },
        }
    )


def open_policy(config: RunConfig) -> tuple[Any, Any, Any]:
    """Return learner, parallel and platform; weights come from the seed."""
    start_logging()
    from megatron_rl.programs.builders.learner import open_learner

    return open_learner(
        config,
        config.learner.optimizer,
        objective=None,
        pretrained=None,
        temperature=1.0,
        total_steps=1_000_000,
    )


def make_sequences(count: int, *, shortest: int, longest: int, seed: int) -> Sequences:
    """Make up sequences of evenly mixed lengths; the loss is on all tokens but the first."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, count)
    offsets = np.cumsum([0, *lengths], dtype=np.int64)
    mask_T = np.ones(offsets[-1], dtype=bool)
    mask_T[offsets[:-1]] = False
    return Sequences(
        token_ids_T=rng.integers(0, VOCAB_SIZE, offsets[-1]),
        offsets=offsets,
        loss_mask_T=mask_T,
        behavior_logprobs_T=np.zeros(offsets[-1], np.float32),
        advantages_N=np.zeros(count, np.float32),
        weights_N=np.full(count, 1 / mask_T.sum(), np.float32),
    )
