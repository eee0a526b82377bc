import numpy as np

from megatron_rl.data.curriculum.passes import PassOrder
from megatron_rl.data.lazy_sequence import LazySequence


def test_items_are_made_when_asked_for_and_few_are_kept():
    made: list[int] = []

    def make(number: int) -> str:
        made.append(number)
        return f"item {number}"

    items = LazySequence(make, np.array([5, 7, 9]))
    assert made == [] and len(items) == 3
    assert (items[1], items[-1], items[1]) == ("item 7", "item 9", "item 7")
    assert made == [7, 9]
    assert list(items[1:]) == ["item 7", "item 9"]
    assert list(items.at([2, 0])) == ["item 9", "item 5"]
    assert list(items) == ["item 5", "item 7", "item 9"]


def test_the_order_of_a_million_problems_is_drawn_once_a_pass():
    # The order is that of a list of Python numbers, whatever it is kept in.
    import random

    order = list(range(1000))
    random.Random("3/2").shuffle(order)
    passes = PassOrder(1000, seed=3, shuffle=True)
    drawn = [passes.at(2000 + i) for i in range(1000)]
    assert drawn == order and all(type(position) is int for position in drawn)
