"""Support of a truncated sampler: rows in, rows out, whatever is taken of them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.sequences import SamplingSupport

ROWS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=8)


def rows_of(support: SamplingSupport) -> list[list[int]]:
    assert len(support.rows()) == support.num_positions or support.num_positions == 0
    return support.rows() if support.num_positions else []


@given(ROWS)
def test_rows_are_read_back(rows):
    assert rows_of(SamplingSupport.of_rows(rows)) == rows


@given(ROWS, st.data())
def test_positions_are_taken_in_any_order_and_more_than_once(rows, data):
    positions = data.draw(st.lists(st.integers(-1, len(rows) - 1), max_size=12))
    taken = SamplingSupport.of_rows(rows).take(np.array(positions, dtype=np.int64))
    assert rows_of(taken) == [[] if i < 0 else rows[i] for i in positions]


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_parts_are_joined_end_to_end(parts):
    joined = SamplingSupport.joined([SamplingSupport.of_rows(part) for part in parts])
    assert rows_of(joined) == [row for part in parts for row in part]
    assert joined.ids_K.dtype == np.int32
    assert joined.offsets.dtype == np.int64


def test_positions_that_are_not_truncated_have_no_ids():
    assert rows_of(SamplingSupport.whole(3)) == [[], [], []]
