"""Selection of correct completions as supervised traces (arXiv:2506.10910, section 5.3).

The rules apply in this order, each to what the one before has left:

1. Traces of early steps are left out.
2. So are traces whose thoughts are shorter than a quantile of all traces, those of early steps
   included.
3. Of each problem a number of traces is kept, drawn at random.
4. A problem of pass rate p < 1/2 has ``min(upsample, 1 / (2 p))`` lines for each trace it keeps,
   rounded down to whole lines; its traces are repeated in turn.
5. The shares of languages become those of the batches: against the language that most completions
   have, the lines of every other one are thinned, or repeated in turn, to the number that keeps
   its share, but at most MOST_REPEATS lines for one.

Shape letters: C = candidates, P = problems, L = languages, M = lines.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

EVEN_PASS_RATE = 0.5
"""Pass rate from which on down a problem has more lines."""
MOST_REPEATS = 4
"""Lines that one line may become to keep the share of its language."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Correct completions to choose from."""

    steps_C: Integers
    problems_C: Integers
    """Index of the problem."""
    lengths_C: Integers
    """Tokens of the thoughts."""
    languages_C: Integers
    """Index of the language of the problem."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionRules:
    """Limits that a selection keeps to; see the module."""

    from_step: int
    min_length_quantile: float
    """From 0, which leaves out nothing, to below 1."""
    per_problem: int | None
    """Most traces of a problem; None for all."""
    upsample: float
    """Most lines for a trace of a problem that is seldom solved; 1 repeats nothing."""
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Lines chosen for each candidate, and what the rules did."""

    copies_C: Integers
    """Lines of each candidate; 0 for one that is left out."""
    left_out: Mapping[str, int]
    """Candidates left out, by the first rule that did."""
    min_length: int
    """Shortest thoughts that the quantile keeps, in tokens."""


def select(
    candidates: Candidates,
    *,
    pass_rates_P: NDArray[np.float64],
    language_counts_L: Integers,
    rules: SelectionRules,
) -> Selection:
    """Return the lines of each candidate.

    Args:
        candidates: in an order that does not change from one call to the next.
        pass_rates_P: share of a problem's completions that are correct.
        language_counts_L: completions of each language in the batches.
        rules: the limits.
    """
    random = np.random.default_rng(rules.seed)
    keys_C = random.random(len(candidates.steps_C))
    min_length = shortest_kept(candidates.lengths_C, rules.min_length_quantile)
    is_late_C = candidates.steps_C >= rules.from_step
    is_long_C = is_late_C & (candidates.lengths_C >= min_length)
    ranks_C = _ranks(candidates.problems_C, keys_C, among_C=is_long_C)
    is_kept_C = is_long_C & (True if rules.per_problem is None else ranks_C < rules.per_problem)
    upsampled_C = _upsampled(
        candidates.problems_C, ranks_C, is_kept_C, pass_rates_P, most=rules.upsample
    )
    copies_C = _with_language_shares(upsampled_C, candidates.languages_C, language_counts_L, keys_C)
    return Selection(
        copies_C=copies_C,
        left_out={
            "early_step": int((~is_late_C).sum()),
            "short_thoughts": int((is_late_C & ~is_long_C).sum()),
            "per_problem": int((is_long_C & ~is_kept_C).sum()),
            "language_share": int(((upsampled_C > 0) & (copies_C == 0)).sum()),
        },
        min_length=min_length,
    )


def shortest_kept(lengths_C: Integers, quantile: float) -> int:
    """Return the length that at most a share ``quantile`` of the lengths is below."""
    if not len(lengths_C):
        return 0
    return int(np.quantile(lengths_C, quantile, method="lower"))


def num_general(num_lines: int, share: float) -> int:
    """Return how many general pairs make up ``share`` of a file with ``num_lines`` others."""
    return round(num_lines * share / (1 - share))


def language_gaps(
    copies_C: Integers, languages_C: Integers, language_counts_L: Integers
) -> Integers:
    """Return, for each language, the lines that its share in the batches asks for and it lacks."""
    lines_L = np.bincount(languages_C, weights=copies_C, minlength=len(language_counts_L))
    return np.maximum(_wanted_lines(lines_L, language_counts_L) - lines_L.astype(np.int64), 0)


def _ranks(problems_C: Integers, keys_C: NDArray[Any], *, among_C: NDArray[np.bool_]) -> Integers:
    """Return the place of each candidate among those of its problem, by key; 0 elsewhere."""
    ranks_C = np.zeros(len(problems_C), dtype=np.int64)
    order = np.flatnonzero(among_C)
    order = order[np.lexsort((keys_C[order], problems_C[order]))]
    _, first, sizes = np.unique(problems_C[order], return_index=True, return_counts=True)
    ranks_C[order] = np.arange(len(order)) - np.repeat(first, sizes)
    return ranks_C


def _upsampled(
    problems_C: Integers,
    ranks_C: Integers,
    is_kept_C: NDArray[np.bool_],
    pass_rates_P: NDArray[np.float64],
    *,
    most: float,
) -> Integers:
    """Return the lines of each candidate, more where a problem is seldom solved."""
    kept_P = np.bincount(problems_C[is_kept_C], minlength=len(pass_rates_P))
    # A problem without a correct completion has no line to repeat.
    factors_P = np.clip(EVEN_PASS_RATE / np.maximum(pass_rates_P, 1e-9), 1, most)
    # The tiny number keeps a product such as 3 * (0.5 / 0.3) = 5 from falling just short of it.
    lines_P = np.floor(kept_P * factors_P + 1e-9).astype(np.int64)
    each_P, rest_P = np.divmod(lines_P, np.maximum(kept_P, 1))
    copies_C = each_P[problems_C] + (ranks_C < rest_P[problems_C])
    return np.where(is_kept_C, copies_C, 0).astype(np.int64)


def _with_language_shares(
    copies_C: Integers, languages_C: Integers, counts_L: Integers, keys_C: NDArray[Any]
) -> Integers:
    """Return the lines of each candidate after thinning, or repeating, all but one language."""
    traces_M = np.repeat(np.arange(len(copies_C)), copies_C)
    copy_M = np.arange(len(traces_M)) - np.repeat(np.cumsum(copies_C) - copies_C, copies_C)
    lines_L = np.bincount(languages_C[traces_M], minlength=len(counts_L))
    wanted_L = np.minimum(_wanted_lines(lines_L, counts_L), MOST_REPEATS * lines_L)
    changed_C = copies_C.copy()
    for language in np.flatnonzero((wanted_L != lines_L) & (lines_L > 0)):
        own_M = np.flatnonzero(languages_C[traces_M] == language)
        # A second line of a trace goes before a first one does.
        own_M = own_M[np.lexsort((keys_C[traces_M[own_M]], copy_M[own_M]))]
        chosen_M = own_M[np.arange(wanted_L[language]) % len(own_M)]
        changed_C[languages_C == language] = 0
        np.add.at(changed_C, traces_M[chosen_M], 1)
    return changed_C


def _wanted_lines(lines_L: NDArray[Any], counts_L: Integers) -> Integers:
    """Return the lines that keep each language's share against the most frequent language."""
    main = int(np.argmax(counts_L))
    if not lines_L[main]:
        return np.asarray(lines_L, dtype=np.int64)
    return np.rint(lines_L[main] * counts_L / counts_L[main]).astype(np.int64)
