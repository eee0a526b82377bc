"""Selection of traces: what each rule keeps, and that the same seed chooses the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.algorithm.trace_selection import (
    MOST_REPEATS,
    Candidates,
    Selection,
    SelectionRules,
    language_gaps,
    num_general,
    select,
    shortest_kept,
)


def candidates_of(rows) -> Candidates:
    """Return candidates of (step, problem, length, language) rows."""
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Candidates(
        steps_C=columns[0],
        problems_C=columns[1],
        lengths_C=columns[2],
        languages_C=columns[3],
    )


def chosen(
    rows,
    *,
    pass_rates=None,
    languages=(1,),
    from_step=0,
    quantile=0.0,
    per_problem=None,
    upsample=1.0,
    seed=0,
) -> Selection:
    num_problems = max((problem for _, problem, *_ in rows), default=0) + 1
    rates = [1.0] * num_problems if pass_rates is None else pass_rates
    return select(
        candidates_of(rows),
        pass_rates_P=np.array(rates, dtype=np.float64),
        language_counts_L=np.array(languages, dtype=np.int64),
        rules=SelectionRules(
            from_step=from_step,
            min_length_quantile=quantile,
            per_problem=per_problem,
            upsample=upsample,
            seed=seed,
        ),
    )


_ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 9), st.integers(0, 2)),
    min_size=1,
    max_size=40,
)
_RATES = st.lists(st.floats(0.01, 1), min_size=5, max_size=5)
_RULES = {
    "from_step": st.integers(0, 6),
    "quantile": st.floats(0, 0.99),
    "per_problem": st.none() | st.integers(1, 4),
    "upsample": st.floats(1, 8),
    "seed": st.integers(0, 9),
}


@given(_ROWS, _RATES, st.fixed_dictionaries(_RULES))
def test_every_candidate_is_kept_or_left_out_by_one_rule(rows, rates, rules):
    counts = [100, 20, 3]
    made = chosen(rows, pass_rates=rates, languages=counts, **rules)
    assert (made.copies_C > 0).sum() + sum(made.left_out.values()) == len(rows)
    again = chosen(rows, pass_rates=rates, languages=counts, **rules)
    assert (made.copies_C == again.copies_C).all()


@given(_ROWS, _RATES, st.fixed_dictionaries(_RULES))
def test_no_rule_is_broken_by_a_kept_trace(rows, rates, rules):
    made = chosen(rows, pass_rates=rates, languages=[100, 20, 3], **rules)
    kept = [row for row, copies in zip(rows, made.copies_C, strict=True) if copies]
    lengths = [length for _, _, length, _ in rows]
    # At most the quantile's share is shorter than what it keeps.
    assert sum(length < made.min_length for length in lengths) <= rules["quantile"] * len(rows)
    assert all(step >= rules["from_step"] for step, *_ in kept)
    assert all(length >= made.min_length for _, _, length, _ in kept)
    if rules["per_problem"] is not None:
        counts = np.bincount([problem for _, problem, *_ in kept], minlength=1)
        assert counts.max() <= rules["per_problem"]


def test_the_quantile_is_that_of_early_traces_too():
    # Lengths 1, 2, 3, 4: the median by the lower of two is 2.
    assert shortest_kept(np.array([4, 1, 3, 2]), 0.5) == 2
    rows = [(0, 0, 1, 0), (0, 0, 2, 0), (5, 0, 3, 0), (5, 0, 4, 0), (5, 0, 1, 0)]
    made = chosen(rows, from_step=5, quantile=0.5)  # 1, 1, 2, 3, 4: the median is 2
    assert made.copies_C.tolist() == [0, 0, 1, 1, 0]
    assert made.left_out["early_step"] == 2 and made.left_out["short_thoughts"] == 1


@pytest.mark.parametrize(
    ("pass_rate", "kept", "upsample", "lines"),
    [
        (1.0, 3, 8, 3),
        (0.5, 3, 8, 3),
        (0.25, 3, 8, 6),  # 3 * 0.5 / 0.25
        (0.3, 3, 8, 5),  # 3 * 0.5 / 0.3 = 5
        (0.0625, 3, 8, 24),  # 3 * 0.5 / 0.0625
        (0.0625, 3, 2.5, 7),  # 3 * 2.5, rounded down
        (0.0625, 1, 1, 1),
    ],
)
def test_a_problem_that_is_seldom_solved_has_more_lines(pass_rate, kept, upsample, lines):
    made = chosen([(0, 0, 5, 0)] * kept, pass_rates=[pass_rate], upsample=upsample)
    assert made.copies_C.sum() == lines
    assert made.copies_C.max() - made.copies_C.min() <= 1  # repeated in turn


@given(
    st.integers(20, 60), st.integers(1, 60), st.integers(1, 500), st.integers(1, 500), st.integers()
)
def test_the_share_of_a_language_is_kept_to_within_a_line(num_main, num_other, most, less, seed):
    counts = [max(most, less), min(most, less)]
    rows = [(0, 0, 5, 0)] * num_main + [(0, 0, 5, 1)] * num_other
    made = chosen(rows, languages=counts, seed=abs(seed))
    main, other = made.copies_C[:num_main], made.copies_C[num_main:]
    assert (main == 1).all()  # the most frequent language is left as it is
    wanted = num_main * counts[1] / counts[0]
    assert other.max() <= MOST_REPEATS
    if wanted <= MOST_REPEATS * num_other:
        assert abs(other.sum() - wanted) <= 0.5
    else:
        gaps = language_gaps(made.copies_C, candidates_of(rows).languages_C, np.array(counts))
        assert gaps[0] == 0 and other.sum() + gaps[1] == round(wanted)


def test_a_language_loses_repeated_lines_before_traces():
    # One language has 4 traces of one line. The other has 2 traces of 2 lines each, and a share
    # that asks for 2 lines.
    rows = [(0, 0, 5, 0)] * 4 + [(0, 1, 5, 1)] * 2
    made = chosen(rows, pass_rates=[1.0, 0.25], upsample=2, languages=[40, 20])
    assert made.copies_C.tolist() == [1, 1, 1, 1, 1, 1]
    assert made.left_out["language_share"] == 0


@given(st.integers(1, 10**6), st.floats(0, 0.95))
def test_the_share_of_general_pairs_is_exact_within_one(num_lines, share):
    general = num_general(num_lines, share)
    assert abs(general - share * (general + num_lines)) <= 1
