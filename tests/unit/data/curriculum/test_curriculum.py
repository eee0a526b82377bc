import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.data.curriculum.by_index import IndexCurriculum
from megatron_rl.data.curriculum.passes import PassOrder
from megatron_rl.data.curriculum.source import CurriculumSource
from megatron_rl.types import Problem


@given(num_problems=st.integers(1, 50), seed=st.integers(), number_of_pass=st.integers(0, 5))
def test_every_pass_visits_every_problem_once(num_problems, seed, number_of_pass):
    order = PassOrder(num_problems, seed=seed, shuffle=True)
    start = number_of_pass * num_problems
    visited = [order.at(visit) for visit in range(start, start + num_problems)]
    assert sorted(visited) == list(range(num_problems))


def positions(seed: int, number_of_pass: int) -> list[int]:
    order = PassOrder(20, seed=seed, shuffle=True)
    return [order.at(visit) for visit in range(number_of_pass * 20, number_of_pass * 20 + 20)]


def test_passes_and_seeds_have_orders_of_their_own():
    assert positions(1, 0) != positions(1, 1)
    assert positions(1, 0) != positions(2, 0)


def test_the_order_does_not_depend_on_what_was_asked_before():
    order = PassOrder(20, seed=1, shuffle=True)
    backwards = [order.at(visit) for visit in range(59, -1, -1)]
    assert backwards[::-1] == positions(1, 0) + positions(1, 1) + positions(1, 2)


@pytest.mark.parametrize(("visit", "position"), [(0, 0), (2, 2), (3, 0), (7, 1)])
def test_without_shuffling_the_file_is_repeated(visit: int, position: int):
    assert PassOrder(3, seed=1, shuffle=False).at(visit) == position


def source(name: str, num_problems: int, *, weight: float = 1.0, group_size: int = 2):
    return CurriculumSource(
        name=name,
        problems=[Problem(id=str(i), text=f"{name}?", answer="1") for i in range(num_problems)],
        prompts=[(i,) for i in range(num_problems)],
        keys_P=np.arange(num_problems, dtype=np.uint64),
        num_reserve=0,
        weight=weight,
        group_size=group_size,
    )


def ids(sources, indices, *, seed: int = 1, shuffle: bool = True) -> list[str]:
    curriculum = IndexCurriculum(sources, seed=seed, shuffle=shuffle)
    return [curriculum.assignment(index).problem.id for index in indices]


def test_a_single_source_keeps_its_ids_and_the_order_that_it_always_had():
    # Written down when the curriculum knew no sources: runs of that time resume with this order.
    assert ids([source("", 7)], range(14)) == list("42106352615403")


def test_sources_take_turns_by_weight_each_with_passes_of_its_own():
    sources = [source("a", 2, weight=3, group_size=4), source("b", 3)]
    assert ids(sources, range(8), shuffle=False) == [
        *("a/0", "a/1", "b/0", "a/0"),
        *("a/1", "a/0", "b/1", "a/1"),
    ]
    curriculum = IndexCurriculum(sources, seed=1, shuffle=True)
    given = [curriculum.assignment(index) for index in range(40)]
    assert [(a.source, a.group_size) for a in given[:3]] == [("a", 4), ("a", 4), ("b", 2)]
    of_b = [a.problem.id for a in given if a.source == "b"]
    assert sorted(of_b[:3]) == sorted(of_b[3:6]) == ["b/0", "b/1", "b/2"]


def test_the_order_of_a_source_depends_on_its_name_and_not_on_the_others():
    def of_a(*others: CurriculumSource) -> list[str]:
        found = ids([source("a", 20), *others], range(200))
        return [identity for identity in found if identity.startswith("a/")][:50]

    assert of_a(source("b", 5)) == of_a(source("c", 9, weight=2))
    of_b = ids([source("b", 20), source("a", 20)], range(100))[::2]
    assert [identity[2:] for identity in of_a()] != [identity[2:] for identity in of_b]
