"""List the layouts of a model that fit a number of GPUs, best first, with the memory they take.

tools/choose_layout.py CONFIG_DIR --gpus 64 --gpu-memory 80 --tokens 8192 32768 131072

Reads config.json only and needs no GPU. Best is: no recomputation of activations, then the fewest
GPUs for a copy of the model (so the most data parallelism), then the fewest for its experts, then
the fewest pipeline stages, then the fewest context-parallel ranks; what remains is tensor
parallelism, which stays within a node. Memory is an estimate of the fullest GPU, in GiB
(megatron_rl/parallelism/memory.py); --reserve is left free for what it does not count.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_rl.cli import exit_code_of
from megatron_rl.config import LearnerConfig
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.parallelism.choose import Candidate, fitting_layouts
from megatron_rl.parallelism.memory import RESERVE_GIB, Memory

_GIB = 2**30
_LAYOUT = ("tp", "sp", "pp", "cp", "ep", "dp", "recompute")
_MEMORY = ("weights", "reference", "gradients", "optimizer", "activations", "logits", "total")


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; 0 when a layout fits for every row length, 2 when none does."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", type=Path, metavar="CONFIG_DIR", help="folder with config.json")
    add("--gpus", type=int, required=True, help="GPUs of the learner")
    add("--gpus-per-node", type=int, default=8, help="tp stays within these (%(default)s)")
    add("--gpu-memory", type=float, default=80.0, help="GiB of a GPU (%(default)s)")
    add("--reserve", type=float, default=RESERVE_GIB, help="GiB left free (%(default)s)")
    add("--tokens", type=int, nargs="+", required=True, help="learner.token_budget, or several")
    add("--precision", choices=("bf16", "fp16", "fp32", "fp8"), default="bf16")
    add("--reference", action="store_true", help="a KL penalty holds a second set of weights")
    add("--best", type=int, default=5, help="layouts shown for each row length (%(default)s)")
    options = parser.parse_args(argv)
    return exit_code_of(lambda: _show(options))


def _show(options: argparse.Namespace) -> int:
    model = read_model_spec(options.model)
    columns = ("tokens", *_LAYOUT, *(name for name in _MEMORY if _is_shown(name, options)))
    print("| " + " | ".join(columns) + " |")
    print("|" + "---:|" * len(columns))
    for tokens in options.tokens:
        fitting = fitting_layouts(
            model,
            num_gpus=options.gpus,
            gpus_per_node=options.gpus_per_node,
            gpu_bytes=int((options.gpu_memory - options.reserve) * _GIB),
            token_budget=tokens,
            chunk_tokens=LearnerConfig().logprob_chunk_tokens,
            precision=options.precision,
            has_reference=options.reference,
        )
        if not fitting:
            raise ConfigError(
                f"no layout of {options.model.name} with rows of {tokens} tokens fits "
                f"{options.gpus} GPUs of {options.gpu_memory:g} GiB; use more GPUs or fewer tokens"
            )
        for candidate in fitting[: options.best]:
            memory = _in_gib(candidate.memory)
            cells = [
                *_layout_cells(candidate),
                *(memory[name] for name in columns if name in memory),
            ]
            print("| " + " | ".join([str(tokens), *cells]) + " |")
    return 0


def _is_shown(name: str, options: argparse.Namespace) -> bool:
    return name != "reference" or options.reference


def _layout_cells(candidate: Candidate) -> list[str]:
    layout = candidate.layout
    sizes = (layout.tp, "yes" if layout.sp else "no", layout.pp, layout.cp, layout.ep)
    return [*map(str, sizes), str(candidate.dp_size), "full" if candidate.is_recomputed else "no"]


def _in_gib(memory: Memory) -> dict[str, str]:
    return {name: f"{getattr(memory, name) / _GIB:.1f}" for name in _MEMORY}


if __name__ == "__main__":
    sys.exit(main())
