"""Print what a batch file holds: counts, lengths, policy versions, rewards and some samples.

tools/inspect_batch.py RUN_DIR/batches/step_000042.safetensors [--model HF_DIR] [--samples 3]
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from megatron_rl.batch import Batch, load_batch
from megatron_rl.cli import exit_code_of

Decode = Callable[[Sequence[int]], str]


def main(argv: Sequence[str] | None = None) -> int:
    """Print one batch; exit code 1 when the file cannot be read."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("batch", type=Path, help="a file of RUN_DIR/batches")
    parser.add_argument("--model", type=Path, metavar="HF_DIR", help="decode with its tokenizer")
    parser.add_argument("--samples", type=int, default=3, help="sequences to show (%(default)s)")
    options = parser.parse_args(argv)
    return exit_code_of(lambda: _inspect(options))


def _inspect(options: argparse.Namespace) -> int:
    batch = load_batch(options.batch)
    decode = str if options.model is None else _decoder(options.model)
    for line in [*summary(batch), *samples(batch, decode, count=options.samples)]:
        print(line)
    return 0


def summary(batch: Batch) -> Iterator[str]:
    """Yield the batch in numbers, one line each."""
    rewards = [sum(sample["reward"].values()) for sample in batch.samples]
    sequences = batch.sequences
    completions = np.add.reduceat(sequences.loss_mask_T, sequences.offsets[:-1])
    versions = Counter(batch.policy_versions_T[sequences.loss_mask_T].tolist())
    yield f"sequences    {batch.num_sequences} in {len(np.unique(batch.groups_N))} groups"
    yield f"optimiser    {batch.num_minibatches} steps"
    yield f"tokens       {int(sequences.offsets[-1])}, of completions {int(completions.sum())}"
    yield f"lengths      {_spread(sequences.lengths_N)} (completions {_spread(completions)})"
    shares = (f"{version}: {count}" for version, count in sorted(versions.items()))
    yield f"versions     {', '.join(shares)} tokens"
    yield f"advantages   {_spread(sequences.advantages_N)}"
    yield f"cursor       next group {batch.cursor.next_index}, {len(batch.cursor.outstanding)} open"
    if rewards:
        correct = sum(bool(sample["correct"]) for sample in batch.samples)
        yield f"rewards      {_spread(np.array(rewards))}"
        yield f"correct      {correct} of {len(rewards)}"
        ends = Counter(sample["finish_reason"] for sample in batch.samples)
        yield f"ended by     {', '.join(f'{reason}: {n}' for reason, n in sorted(ends.items()))}"
        yield f"masked       {int((sequences.weights_N == 0).sum())} kept out of the loss"
    for name, value in sorted(batch.metrics.items()):
        yield f"metric       {name} = {value:g}"


def samples(batch: Batch, decode: Decode, *, count: int) -> Iterator[str]:
    """Yield the first ``count`` sequences as text, with what was thought of them."""
    sequences = batch.sequences
    for i in range(min(count, batch.num_sequences)):
        span = slice(sequences.offsets[i], sequences.offsets[i + 1])
        advantage = sequences.advantages_N[i]
        tokens, mask = sequences.token_ids_T[span], sequences.loss_mask_T[span]
        yield f"--- sequence {i}, group {batch.groups_N[i]}, advantage {advantage:.3g}"
        yield f"prompt       {decode(tokens[~mask].tolist())}"
        yield f"completion   {decode(tokens[mask].tolist())}"
        if batch.samples:
            sample = batch.samples[i]
            yield f"answer       {sample['answer']} (gold {sample['gold']}) {sample['reason']}"
            yield f"reward       {sample['reward']}"


def _decoder(folder: Path) -> Decode:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda token_ids: repr(tokenizer.decode(token_ids))


def _spread(values: np.ndarray) -> str:
    return f"{values.min():g} .. {values.max():g}, mean {values.mean():.4g}"


if __name__ == "__main__":
    sys.exit(main())
