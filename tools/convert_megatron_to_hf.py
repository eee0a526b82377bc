"""Write a Megatron checkpoint of any layout as a Hugging Face folder, tensor by tensor.

tools/convert_megatron_to_hf.py RUN_DIR/checkpoints/step_000042 TARGET [--dtype bfloat16] [--verify]

Config, tokenizer and generation config come from the model of the run (--model names another).
TARGET/manifest.json lists every tensor's shape, type and SHA-256. A finished target is not made
again.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_rl.cli import exit_code_of

_SIZE = re.compile(r"(\d+)([KMG]?)i?B?", re.IGNORECASE)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3}


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; exit code 2 when checkpoint and config.json disagree or the target is taken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=Path, metavar="CHECKPOINT", help="a step, or the folder of the steps")
    add("target", type=Path, metavar="TARGET", help="folder to make")
    add("--model", type=Path, metavar="HF_DIR", help="whose config.json and tokenizer to take")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, help="of the weights; as saved by default")
    add("--max-shard-size", type=num_bytes, default="4G", help="such as 500M (%(default)s)")
    add("--verify", action="store_true", help="read back and compare every tensor, byte for byte")
    add("--threads", type=int, default=1, help="of torch (%(default)s)")
    options = parser.parse_args(argv)
    return exit_code_of(lambda: _convert(options))


def num_bytes(text: str) -> int:
    """Read a size such as 4G, 500MiB or 100000; units are powers of 1024."""
    match = _SIZE.fullmatch(text)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 4G or 500M")
    return int(match[1]) * 1024 ** _POWER[match[2].upper()]


def _convert(options: argparse.Namespace) -> int:
    # Host memory holds models that no single GPU does. Set before torch looks for GPUs.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from megatron_rl.programs.offline.convert import megatron_to_huggingface, summary
    from megatron_rl.programs.processes.logs import start_logging

    start_logging()
    manifest = megatron_to_huggingface(
        options.checkpoint,
        options.target,
        model_folder=options.model,
        dtype=options.dtype,
        max_shard_bytes=options.max_shard_size,
        is_verified=options.verify,
        cpu_threads=options.threads,
    )
    print(summary(manifest, options.target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
