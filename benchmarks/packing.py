"""Packing: how much of what the learner computes is padding, and how evenly ranks share it.

    python benchmarks/packing.py [--quick]

Compared, for the same lengths: our rows (first-fit decreasing under a token budget), rows filled in
the order of arrival, and what most trainers do, batches padded to their longest sequence.
Waste is the share of computed positions that hold no token. For rows that is the unused budget,
although the CPU learner does not compute it: rows are as long as their sequences.

Balance is the FLOPs, attention included, of the data-parallel rank that has most, in % above the
mean of all ranks: the rest wait for it. Compared, for the same lengths and ranks: sequences dealt
by FLOPs (ours), dealt by tokens, and whole rows dealt by tokens to ranks of equally many rows. The
shape is that of Llama 3.1 8B, with the token budget as the longest sequence.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
from table import parser_of, show_and_keep

from megatron_rl.algorithm.packing import imbalance, packing_waste, plan
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.flops import training_flops

BUDGET = 16384
LONGEST = 8192
PADDED_BATCH = 8
SEED = 0
RANKS = 8
LONG_TAIL = (8192, 32768, 131072)
MODEL = ModelSpec(
    family="llama",
    num_layers=32,
    hidden_size=4096,
    ffn_size=14336,
    num_heads=32,
    num_groups=8,
    head_dim=128,
    vocab_size=128256,
    max_positions=4096,
    norm_eps=1e-5,
    rope_theta=1e4,
    rope_scaling=None,
    rotary_dim=128,
    is_tied=False,
    num_draft_layers=0,
    has_qkv_bias=False,
    has_qk_norm=False,
    window=None,
    moe=None,
    init_std=0.02,
)


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
    rows = plan(lengths, training_flops(lengths, MODEL), dp_size=1, token_budget=BUDGET)
    seconds = time.perf_counter() - started
    return {
        "lengths": shape,
        "sequences": count,
        "packed waste %": 100 * packing_waste(lengths, rows, budget=BUDGET),
        "in order %": 100 * sequential_waste(lengths, budget=BUDGET),
        "padded %": 100 * padded_waste(lengths, batch_size=PADDED_BATCH),
        "planning ms": 1e3 * seconds,
    }


def long_tailed(rng: np.random.Generator, count: int, longest: int) -> np.ndarray:
    """Return a median of 1/16 of the longest and a tail that reaches it."""
    return np.clip(rng.lognormal(np.log(longest / 16), 1.2, count), 16, longest).astype(int)


def rows_by_tokens(lengths: Sequence[int], *, budget: int) -> list[list[tuple[int, ...]]]:
    """Deal whole rows, longest first, to the rank with fewest tokens that has room for a row."""
    (rows,) = plan(lengths, lengths, dp_size=1, token_budget=budget)
    tokens = [sum(lengths[i] for i in row) for row in rows]
    rows_per_rank = -(-len(rows) // RANKS)
    ranks: list[list[tuple[int, ...]]] = [[] for _ in range(RANKS)]
    load = [0] * RANKS
    for index in sorted(range(len(rows)), key=lambda i: -tokens[i]):
        open_ranks = [rank for rank in range(RANKS) if len(ranks[rank]) < rows_per_rank]
        rank = min(open_ranks, key=lambda r: load[r])
        ranks[rank].append(rows[index])
        load[rank] += tokens[index]
    return ranks


def balance(longest: int, count: int) -> dict[str, str | int | float]:
    """Return one row of the second table."""
    lengths = long_tailed(np.random.default_rng(SEED), count, longest).tolist()
    flops = training_flops(lengths, MODEL)
    by_flops = plan(lengths, flops, dp_size=RANKS, token_budget=longest)
    by_tokens = plan(lengths, lengths, dp_size=RANKS, token_budget=longest)
    rows = [len(rank) for rank in by_flops]
    return {
        "longest": longest,
        "sequences": count,
        "by FLOPs %": _excess(flops, by_flops),
        "by tokens %": _excess(flops, by_tokens),
        "rows by tokens %": _excess(flops, rows_by_tokens(lengths, budget=longest)),
        "rows of a rank": f"{min(rows)} to {max(rows)}",
    }


def _excess(flops: Sequence[float], ranks: Sequence[Sequence[tuple[int, ...]]]) -> float:
    return 100 * (imbalance(flops, ranks) - 1)


def main() -> None:
    """Measure every shape at the size of a batch, then balance for long tails."""
    options = parser_of(__doc__).parse_args()
    counts = [256] if options.quick else [256, 2048, 8192]
    rows = [measure(shape, count) for count in counts for shape in SHAPES]
    title = f"Padding: rows of {BUDGET} tokens, batches of {PADDED_BATCH}"
    show_and_keep("packing", title, rows, output=options.output)
    shared = [balance(longest, count) for count in counts[:2] for longest in LONG_TAIL]
    title = f"Balance: FLOPs of the busiest of {RANKS} ranks, % above the mean"
    show_and_keep("packing_balance", title, shared, output=options.output)


if __name__ == "__main__":
    main()
