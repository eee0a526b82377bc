"""Write the weights of a Hugging Face folder as a Megatron checkpoint, tensor by tensor.

tools/convert_hf_to_megatron.py HF_DIR TARGET [--dtype bfloat16] [--verify]

Runs in one process and holds one layer at a time; started again after it was killed, it goes on
where it was. The checkpoint (TARGET/step_000000, torch_dist) is cut anew whenever it is loaded, so
it fits every layout. A finished target is not made again.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_rl.cli import exit_code_of


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; exit code 2 when tensors and config.json disagree or the target is taken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", type=Path, metavar="HF_DIR", help="config.json, safetensors, tokenizer")
    add("target", type=Path, metavar="TARGET", help="folder to make")
    dtypes = ("float32", "bfloat16", "float16")
    add("--dtype", choices=dtypes, help="of the weights; HF_DIR's by default")
    add("--verify", action="store_true", help="read back and compare every tensor, byte for byte")
    add("--threads", type=int, default=1, help="of torch (%(default)s)")
    options = parser.parse_args(argv)
    return exit_code_of(lambda: _convert(options))


def _convert(options: argparse.Namespace) -> int:
    # Host memory holds models that no single GPU does. Set before torch looks for GPUs.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from megatron_rl.programs.offline.convert import huggingface_to_megatron, summary
    from megatron_rl.programs.processes.logs import start_logging

    start_logging()
    manifest = huggingface_to_megatron(
        options.source,
        options.target,
        dtype=options.dtype,
        is_verified=options.verify,
        cpu_threads=options.threads,
    )
    print(summary(manifest, options.target))
    return 0


if __name__ == "__main__":
    sys.exit(main())
