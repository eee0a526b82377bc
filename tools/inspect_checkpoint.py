"""Print what Megatron checkpoints hold, from their metadata, without loading a tensor.

tools/inspect_checkpoint.py RUN_DIR/checkpoints [--step 40]
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_rl.cli import exit_code_of
from megatron_rl.errors import CheckpointError
from megatron_rl.learner.checkpoint.steps import complete_steps, latest_step, step_folder


def main(argv: Sequence[str] | None = None) -> int:
    """Print the steps, and the tensors of one of them; exit code 1 when it cannot be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", type=Path, help="folder of the steps")
    parser.add_argument("--step", type=int, help="whose tensors to list; the latest by default")
    options = parser.parse_args(argv)
    return exit_code_of(lambda: _inspect(options.checkpoints, options.step))


def _inspect(root: Path, step: int | None) -> int:
    latest = latest_step(root)
    for found in complete_steps(root):
        size = sum(path.stat().st_size for path in step_folder(root, found).rglob("*.*"))
        print(f"step {found:>6}  {size / 1e6:10.1f} MB{'  latest' if found == latest else ''}")
    chosen = latest if step is None else step
    if chosen is None:
        raise CheckpointError(f"{root}: no checkpoint there")
    for line in describe(step_folder(root, chosen)):
        print(line)
    return 0


def describe(folder: Path) -> Iterator[str]:
    """Yield one line for every tensor of a checkpoint, and the total.

    Raises:
        CheckpointError: the folder holds no readable metadata.
    """
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    if not (folder / ".metadata").exists():
        raise CheckpointError(f"{folder}: no .metadata, so this is no Megatron checkpoint")
    entries = FileSystemReader(folder).read_metadata().state_dict_metadata
    tensors = {n: e for n, e in sorted(entries.items()) if isinstance(e, TensorStorageMetadata)}
    num_bytes = 0
    for name, entry in tensors.items():
        num_bytes += math.prod(entry.size) * entry.properties.dtype.itemsize
        dtype = str(entry.properties.dtype).removeprefix("torch.")
        parts = f"{len(entry.chunks)} part{'s' if len(entry.chunks) > 1 else ''}"
        yield f"{name:<80} {dtype:<10} {tuple(entry.size)} {parts}"
    others = len(entries) - len(tensors)
    yield f"{len(tensors)} tensors, {num_bytes / 1e6:.1f} MB; {others} entries of other kinds"


if __name__ == "__main__":
    sys.exit(main())
