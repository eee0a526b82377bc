"""The learner's model FLOPs utilisation for a given shape.

    python benchmarks/mfu.py [--shape LAYERS,HIDDEN,HEADS,KV_HEADS,FFN,VOCAB] [--length 4096]
        [--rows 8] [--precision bf16] [--steps 5] [--quick]

One process, or one for each GPU under torchrun (data parallel), trains a Qwen3 of random weights on
rows that one sequence fills each. A step is forward, backward and optimiser; the first is left out.
FLOPs are those of the model, attention included, without recomputation. On a CPU, or a GPU whose
peak is not in parallelism.utilisation, only FLOP/s are shown.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from table import parser_of, show_and_keep

from megatron_rl.programs.gpu_stages.learning.speed import Training, measure_speed
from megatron_rl.programs.gpu_stages.shapes import KEYS, read_shape
from megatron_rl.programs.processes.logs import start_logging

DEFAULT = "28,2048,16,8,6144,151936"  # Qwen3-1.7B: 36 GiB of state, so one GPU holds it
QUICK = "2,128,2,2,256,512"


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any] | None:
    """Train; return the row of the table, None on ranks other than the first."""
    start_logging()
    training = Training(
        shape=read_shape(options.shape),
        length=options.length,
        rows=options.rows,
        precision=options.precision,
        is_recomputed=options.recompute,
    )
    speed = measure_speed(training, folder, steps=options.steps)
    if not speed.is_first:
        return None
    return {
        "device": speed.device,
        "ranks": speed.num_ranks,
        "precision": options.precision,
        "parameters": speed.num_parameters,
        "length": options.length,
        "tokens/s": speed.tokens_per_s,
        "TFLOP/s a rank": speed.flops / 1e12,
        "MFU %": "peak unknown" if speed.mfu is None else 100 * speed.mfu,
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
        row = measure(Path(folder), options)
    if row is not None:
        title = f"MFU of {options.shape}"
        show_and_keep("mfu", title, [row], output=options.output)


if __name__ == "__main__":
    main()
