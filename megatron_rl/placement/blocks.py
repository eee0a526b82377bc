"""Node blocks of servers that span nodes, and the assignment of servers to blocks. Pure.

Servers on one node have blocks of one node each.
"""

from collections.abc import Mapping, Sequence


def node_blocks(names: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Cut the names into blocks of ``size`` neighbours; a remainder is left over at the start."""
    first = len(names) % size
    return [tuple(names[i : i + size]) for i in range(first, len(names), size)]


def deal_servers(room: Mapping[tuple[str, ...], int], count: int) -> list[tuple[str, ...]]:
    """Deal servers to blocks in turn, as even as the room allows; return the block of each."""
    left = dict(room)
    order: list[tuple[str, ...]] = []
    while len(order) < count:
        for block in room:
            if left[block] and len(order) < count:
                left[block] -= 1
                order.append(block)
    return sorted(order, key=list(room).index)


def fewest_nodes(tp: int, *, gpus_per_node: int) -> int:
    """Return the smallest number of nodes whose GPUs hold ``tp`` ranks, as many on each."""
    return next(n for n in range(1, tp + 1) if tp % n == 0 and tp // n <= gpus_per_node)
