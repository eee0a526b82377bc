import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.data.curriculum import problem_at


@given(num_problems=st.integers(1, 50), seed=st.integers(), number_of_pass=st.integers(0, 5))
def test_every_pass_visits_every_problem_once(num_problems, seed, number_of_pass):
    start = number_of_pass * num_problems
    visited = [
        problem_at(index, num_problems=num_problems, seed=seed, shuffle=True)
        for index in range(start, start + num_problems)
    ]
    assert sorted(visited) == list(range(num_problems))


def order(seed: int, number_of_pass: int) -> list[int]:
    indices = range(number_of_pass * 20, number_of_pass * 20 + 20)
    return [problem_at(i, num_problems=20, seed=seed, shuffle=True) for i in indices]


def test_passes_and_seeds_have_orders_of_their_own():
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_the_order_does_not_depend_on_what_was_asked_before():
    backwards = [problem_at(i, num_problems=20, seed=1, shuffle=True) for i in range(59, -1, -1)]
    assert backwards[::-1] == order(1, 0) + order(1, 1) + order(1, 2)


@pytest.mark.parametrize(("index", "position"), [(0, 0), (2, 2), (3, 0), (7, 1)])
def test_without_shuffling_the_file_is_repeated(index: int, position: int):
    assert problem_at(index, num_problems=3, seed=1, shuffle=False) == position
