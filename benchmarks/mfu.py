"""The learner's model FLOPs utilisation for a given shape.

    python benchmarks/mfu.py [--shape LAYERS,HIDDEN,HEADS,KV_HEADS,FFN,VOCAB] [--length 4096]
        [--rows 8] [--precision bf16] [--steps 5] [--quick]

One process, or one for each GPU under torchrun (data parallel), trains a Qwen3 of random weights on
rows that one sequence fills each. A step is forward, backward and optimiser; the first is left out.
FLOPs are those of the model, attention included, without recomputation. On a CPU, or a GPU whose
peak is not in parallelism.utilisation, only FLOP/s are shown.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from table import parser_of, show_and_keep

from megatron_rl.config import RunConfig, resolve
from megatron_rl.conversion.families import model_spec
from megatron_rl.parallelism.flops import training_flops
from megatron_rl.parallelism.parameters import num_parameters
from megatron_rl.parallelism.utilisation import peak_flops, utilisation
from megatron_rl.programs.processes.logs import start_logging
from megatron_rl.sequences import Sequences

KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)
DEFAULT = "28,2048,16,8,6144,151936"  # Qwen3-1.7B: 36 GiB of state, so one GPU holds it
QUICK = "2,128,2,2,256,512"


def model_config(shape: str, length: int) -> dict[str, Any]:
    """Return the config.json of a Qwen3 of the sizes in ``shape``, in the order of KEYS."""
    sizes = dict(zip(KEYS, map(int, shape.split(",")), strict=True))
    return {
        **sizes,
        "model_type": "qwen3",
        "head_dim": sizes["hidden_size"] // sizes["num_attention_heads"],
        "max_position_embeddings": length + 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "hidden_act": "silu",
        "attention_bias": False,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
    }


def run_config(folder: Path, options: argparse.Namespace) -> RunConfig:
    """Return the settings of a learner whose every row is one sequence."""
    return resolve(
        {
            "run_dir": folder / "run",
            "num_steps": 1,
            "model": {"path": folder, "init": "random", "dtype": "bfloat16"},
            "data": {"train": folder / "none"},
            "generators": {"sampling": {"max_new_tokens": options.length}},
            "learner": {
                "token_budget": options.length,
                "precision": options.precision,
                "megatron": {
                    "recompute_granularity": "full",
                    "recompute_method": "uniform",
                    "recompute_num_layers": 1,
                }
                if options.recompute
                else {},
            },
        }
    )


def full_rows(count: int, length: int, vocab_size: int) -> Sequences:
    """Make up sequences that take ``length`` tokens of a row each; all but the first are learnt."""
    total = count * (length + 1)  # the last token of a sequence is only predicted
    return Sequences(
        token_ids_T=np.random.default_rng(0).integers(0, vocab_size, total),
        offsets=np.arange(count + 1) * (length + 1),
        loss_mask_T=np.ones(total, dtype=bool),
        behavior_logprobs_T=np.zeros(total, dtype=np.float32),
        advantages_N=np.ones(count, dtype=np.float32),
        weights_N=np.full(count, 1 / (count * length), dtype=np.float32),
    )


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any] | None:
    """Train; return the row of the table, None on ranks other than the first."""
    start_logging()
    from megatron_rl.learner.device.parallel import shut_down_parallel
    from megatron_rl.programs.builders.learner import open_learner

    config = run_config(folder, options)
    learner, parallel, platform = open_learner(
        config,
        config.learner.optimizer,
        objective=None,
        pretrained=None,
        temperature=1.0,
        total_steps=options.steps + 1,
    )
    shape = model_spec(json.loads((folder / "config.json").read_text()))
    count = options.rows * parallel.dp_size
    sequences = full_rows(count, options.length, shape.vocab_size)
    learner.update_supervised(sequences)
    started = time.monotonic()
    for _ in range(options.steps):
        learner.update_supervised(sequences)  # ends with metrics on the host, so it is timed whole
    seconds = (time.monotonic() - started) / options.steps
    flops = float(training_flops([options.length] * count, shape).sum())
    gpu = torch.cuda.get_device_name() if platform.capability is not None else "CPU"
    peak = peak_flops(gpu, options.precision)
    num_ranks = parallel.world_size
    is_first = parallel.is_first
    shut_down_parallel()
    if not is_first:
        return None
    share = None
    if peak is not None:
        share = utilisation(flops, seconds=seconds, num_gpus=num_ranks, peak=peak)
    return {
        "device": gpu,
        "ranks": num_ranks,
        "precision": options.precision,
        "parameters": num_parameters(shape),
        "length": options.length,
        "tokens/s": count * options.length / seconds,
        "TFLOP/s a rank": flops / seconds / num_ranks / 1e12,
        "MFU %": "peak unknown" if share is None else 100 * share,
    }


def main() -> None:
    parser = parser_of(__doc__ or "")
    add = parser.add_argument
    add("--shape", default=DEFAULT, help=f"{','.join(KEYS)}; default {DEFAULT} (Qwen3-1.7B)")
    add("--length", type=int, default=4096, help="tokens of a sequence, and of a row")
    add("--rows", type=int, default=8, help="rows of a rank in one step")
    add("--steps", type=int, default=5, help="steps that are timed")
    add("--precision", choices=("fp32", "bf16", "fp16", "fp8"), default="bf16")
    add("--recompute", action="store_true", help="recompute every layer, to save memory")
    options = parser.parse_args()
    if options.quick:
        options.shape, options.length, options.rows, options.steps = QUICK, 64, 2, 2
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(model_config(options.shape, options.length))
        (Path(folder) / "config.json").write_text(text)
        row = measure(Path(folder), options)
    if row is not None:
        title = f"MFU of {options.shape}"
        show_and_keep("mfu", title, [row], output=options.output)


if __name__ == "__main__":
    main()
