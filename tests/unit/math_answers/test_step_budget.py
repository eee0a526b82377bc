"""Budget of steps: endless computations end, wherever they loop, and no others."""

import sys

import pytest

from megatron_rl.math_answers.algebra.step_budget import OutOfSteps, within_steps


def step():
    return 1


def walk_for_ever():
    while True:
        step()


def count_for_ever():
    while True:
        yield step()


def test_what_ends_in_time_is_returned():
    assert within_steps(1000, lambda: sum(step() for _ in range(10))) == 10


def test_what_does_not_end_is_ended():
    with pytest.raises(OutOfSteps):
        within_steps(1000, walk_for_ever)


def test_a_generator_that_does_not_end_is_ended():
    with pytest.raises(OutOfSteps):
        within_steps(1000, lambda: [step() for _ in count_for_ever()])


def test_except_exception_does_not_keep_it_alive():
    def stubborn():
        while True:
            try:
                walk_for_ever()
            except Exception:
                continue

    with pytest.raises(OutOfSteps):
        within_steps(1000, stubborn)


def test_the_same_budget_ends_at_the_same_step():
    def reached(budget):
        calls = []
        with pytest.raises(OutOfSteps):
            within_steps(budget, lambda: [calls.append(step()) for _ in iter(int, 1)])
        return len(calls)

    assert reached(999) == reached(999) < reached(2000)


def test_the_profiler_of_before_is_back_afterwards():
    def mine(frame, event, argument):
        pass

    sys.setprofile(mine)
    try:
        with pytest.raises(OutOfSteps):
            within_steps(10, walk_for_ever)
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)
