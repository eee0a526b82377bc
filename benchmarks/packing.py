"""Packing: how much of what the learner computes is padding.

    python benchmarks/packing.py [--quick]

Compared, for the same lengths: our rows (first-fit decreasing under a token budget), rows filled in
the order of arrival, and what most trainers do, batches padded to their longest sequence.
Waste is the share of computed positions that hold no token. For rows that is the unused budget,
although the CPU learner does not compute it: rows are as long as their sequences.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from table import parser_of, show_and_keep

from megatron_rl.algorithm.packing import packing_waste, plan

BUDGET = 16384
LONGEST = 8192
PADDED_BATCH = 8
SEED = 0


def uniform(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return lengths between 16 tokens and the longest, all equally likely."""
    return rng.integers(16, LONGEST + 1, count)


def log_normal(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return lengths as reasoning models have them: a median of 1000 and a long tail."""
    return np.clip(rng.lognormal(np.log(1000), 1.0, count), 16, LONGEST).astype(int)


def bimodal(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return mostly short lengths and a quarter that ran into the limit."""
    short = rng.integers(100, 800, count)
    return np.where(rng.random(count) < 0.25, LONGEST - rng.integers(0, 64, count), short)


SHAPES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "uniform": uniform,
    "log-normal": log_normal,
    "bimodal": bimodal,
}


def sequential_waste(lengths: Sequence[int], *, budget: int) -> float:
    """Return the waste of rows that are filled in order and closed when the next does not fit."""
    rows, room = 0, 0
    for length in lengths:
        if length > room:
            rows, room = rows + 1, budget
        room -= length
    return 1 - sum(lengths) / (rows * budget)


def padded_waste(lengths: Sequence[int], *, batch_size: int) -> float:
    """Return the waste of batches, in order, padded to their longest sequence."""
    batches = [lengths[i : i + batch_size] for i in range(0, len(lengths), batch_size)]
    return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def measure(shape: str, count: int) -> dict[str, str | int | float]:
    """Return one row of the table."""
    lengths = SHAPES[shape](np.random.default_rng(SEED), count).tolist()
    started = time.perf_counter()
    rows = plan(lengths, dp_size=1, token_budget=BUDGET)
    seconds = time.perf_counter() - started
    return {
        "lengths": shape,
        "sequences": count,
        "packed waste %": 100 * packing_waste(lengths, rows, budget=BUDGET),
        "in order %": 100 * sequential_waste(lengths, budget=BUDGET),
        "padded %": 100 * padded_waste(lengths, batch_size=PADDED_BATCH),
        "planning ms": 1e3 * seconds,
    }


def main() -> None:
    """Measure every shape at the size of a batch."""
    options = parser_of(__doc__).parse_args()
    counts = [256] if options.quick else [256, 2048, 8192]
    rows = [measure(shape, count) for count in counts for shape in SHAPES]
    title = f"Padding: rows of {BUDGET} tokens, batches of {PADDED_BATCH}"
    show_and_keep("packing", title, rows, output=options.output)


if __name__ == "__main__":
    main()
