"""Measure the learner at one context length, and estimate what a server holds of it.

    python examples/long_context/measure.py --length 4096 --out runs/long_context
    torchrun --nproc-per-node 8 examples/long_context/measure.py --length 131072 --cp 8 \
        --model CONFIG_DIR --precision bf16 --out runs/long_context

Without --model a small Qwen3 of 512 positions is made up; beyond a model's positions it is scaled
by [model.rope_scaling]. Weights are random. A batch holds sequences of a long-tailed mix of
lengths, the longest as long as the context. The first step is left out. The first rank writes one
JSON file; summarize.py makes a table and a plot of all of a folder. With --estimate nothing is
trained, and what would take GPUs is estimated here.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from context_scaling import balance_of, made_up_lengths, rope_scaling_for

from megatron_rl.cli import exit_code_of
from megatron_rl.config import RunConfig, resolve
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.programs.builders.model import checked_spec, layout_of
from megatron_rl.programs.checks.learner_memory import estimate_learner_memory
from megatron_rl.programs.checks.server_memory import capacity, estimate_server_memory
from megatron_rl.programs.gpu_stages.learning.speed import RECOMPUTED
from megatron_rl.programs.gpu_stages.shapes import read_shape, write_config
from megatron_rl.run_dir import write_json
from megatron_rl.sequences import Sequences

SHAPE, POSITIONS = "2,128,4,2,384,512", 512
_MIB, _SEED = 2**20, 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write OUT/LAYOUT_LENGTH.json."""
    options = _parser().parse_args(argv)
    return exit_code_of(lambda: _measure(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--length", type=int, required=True, help="tokens of the context, and of a row")
    add("--out", type=Path, default=Path("runs/long_context"), help="folder (%(default)s)")
    add("--model", type=Path, default=None, metavar="CONFIG_DIR", help="folder with config.json")
    add("--rope", choices=("yarn", "llama3"), default="yarn", help="scaling beyond its positions")
    add("--rows", type=int, default=4, help="rows' worth of tokens of a dp rank (%(default)s)")
    add("--steps", type=int, default=2, help="steps that are timed (%(default)s)")
    for size in ("tp", "cp", "pp"):
        add(f"--{size}", type=int, default=1, help="of the learner (%(default)s)")
    add("--precision", choices=("fp32", "bf16", "fp16", "fp8"), default="fp32")
    add("--recompute", action="store_true", help="recompute every layer, to save memory")
    add("--server-gpu-gb", type=float, default=80.0, help="GiB of a server's GPU (%(default)s)")
    add("--server-tp", type=int, default=1, help="GPUs of a server (%(default)s)")
    add("--estimate", action="store_true", help="train nothing")
    add("--ranks", type=int, default=None, help="of the learner, with --estimate")
    return parser


def _measure(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        config = run_config(options, Path(scratch))
        row = estimates(config, options)
        measured: dict[str, Any] = {}
        if not options.estimate:
            measured = train(config, lengths_of(config, options), steps=options.steps)
    if measured.pop("is_first", True):
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"{row['layout'].replace(' ', '-')}_{options.length:07d}.json"
        write_json(path, row | measured)
        print(json.dumps(row | measured, indent=1))
    return 0


def run_config(options: argparse.Namespace, scratch: Path) -> RunConfig:
    """Return a run whose contexts and rows are of this length, its model scaled where needed."""
    length, folder = options.length, options.model
    if folder is None:
        config = read_shape(SHAPE).config(max_positions=POSITIONS)
        folder = write_config(scratch / "model", config)
    positions = read_model_spec(folder).max_positions
    ranks = options.ranks or int(os.environ.get("WORLD_SIZE", "1"))
    return resolve(
        {
            "run_dir": scratch / "run",
            "num_steps": 1,
            "model": {
                "path": folder,
                "init": "random",
                "dtype": "float32" if options.precision == "fp32" else "bfloat16",
                "rope_scaling": rope_scaling_for(length, positions=positions, kind=options.rope),
            },
            "data": {"train": folder / "none"},
            "generators": {
                "tp": options.server_tp,
                "context_length": length,
                "sampling": {"max_new_tokens": length - 1},
            },
            "learner": {
                "num_processes": ranks,
                "token_budget": length,
                "precision": options.precision,
                "parallel": {
                    **{"tp": options.tp, "cp": options.cp, "pp": options.pp},
                    "sp": options.tp > 1,
                },
                "megatron": dict(RECOMPUTED) if options.recompute else {},
            },
        }
    )


def lengths_of(config: RunConfig, options: argparse.Namespace) -> list[int]:
    """Return the tokens that each sequence of the batch predicts from."""
    replicas = config.learner.num_processes // layout_of(config.learner.parallel).model_size
    tokens = options.rows * options.length * replicas
    return made_up_lengths(options.length, tokens=tokens, seed=_SEED)


def estimates(config: RunConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Return all that follows from the configuration.

    Raises:
        ConfigError: model and layout do not go together.
    """
    spec, layout = checked_spec(config), layout_of(config.learner.parallel)
    dp_size = config.learner.num_processes // layout.model_size
    lengths = lengths_of(config, options)
    balance = balance_of(
        lengths, spec, token_budget=options.length, dp_size=dp_size, cp_size=layout.cp
    )
    server = estimate_server_memory(config, spec, gpu_memory_gb=options.server_gpu_gb)
    scaling = config.model.rope_scaling
    return {
        "length": options.length,
        "layout": f"dp{dp_size} cp{layout.cp} tp{layout.tp} pp{layout.pp}",
        "sequences": len(lengths),
        "rope factor": 1.0 if scaling is None else scaling.factor,
        **dataclasses.asdict(balance),
        "estimated MiB": estimate_learner_memory(config, spec).total / _MIB,
        "server tokens": capacity(config, server),
        "server sequences": capacity(config, server) // options.length,
    }


def train(config: RunConfig, lengths_N: Sequence[int], *, steps: int) -> dict[str, Any]:
    """Return tokens per second of all ranks, and the peak memory of this one."""
    from megatron_rl.learner.device.parallel import shut_down_parallel
    from megatron_rl.programs.builders.learner import open_learner
    from megatron_rl.programs.processes.logs import start_logging

    start_logging()
    before = _status("VmRSS")  # Megatron's code is in memory now
    learner, parallel, platform = open_learner(
        config,
        config.learner.optimizer,
        objective=None,
        pretrained=None,
        temperature=1.0,
        total_steps=steps + 1,
    )
    batch = sequences_of(lengths_N, checked_spec(config).vocab_size)
    learner.update_supervised(batch)
    started = time.monotonic()
    for _ in range(steps):
        learner.update_supervised(batch)
    seconds = (time.monotonic() - started) / steps
    on_gpu = platform.capability is not None
    peak = _gpu_peak() if on_gpu else _status("VmHWM") - before
    is_first = parallel.is_first
    shut_down_parallel()
    return {
        "is_first": is_first,
        "step s": seconds,
        "tokens/s": sum(lengths_N) / seconds,
        "measured MiB": peak,
        # Above the ranks' own share, something else was running.
        "load average": os.getloadavg()[0],
    }


def sequences_of(lengths_N: Sequence[int], vocab_size: int) -> Sequences:
    """Make up sequences that take as many tokens of a row each; all but the first are learnt."""
    offsets = np.cumsum([0, *(length + 1 for length in lengths_N)], dtype=np.int64)
    count, total = len(lengths_N), int(offsets[-1])
    mask_T = np.ones(total, dtype=bool)
    mask_T[offsets[:-1]] = False
    return Sequences(
        token_ids_T=np.random.default_rng(_SEED).integers(0, vocab_size, total),
        offsets=offsets,
        loss_mask_T=mask_T,
        behavior_logprobs_T=np.zeros(total, np.float32),
        advantages_N=np.ones(count, np.float32),
        weights_N=np.full(count, 1 / mask_T.sum(), np.float32),
    )


def _gpu_peak() -> float:
    import torch

    return torch.cuda.max_memory_allocated() / _MIB


def _status(name: str) -> float:
    """Return MiB of this process: what it holds now, or held at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    sys.exit(main())
