"""Order in which verdicts get workers."""

import asyncio

import pytest

from megatron_rl.judge.priority_lanes import Lane, PriorityLanes


async def entered(lanes: PriorityLanes, lane: Lane, order: int) -> "asyncio.Task[None]":
    task = asyncio.ensure_future(lanes.enter(lane, order))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize(
    ("num_workers", "num_slow"),
    [(1, 1), (2, 1), (3, 2), (4, 2), (8, 6), (64, 48)],  # reserved: 0, 1, 1, 2, 2, 16
)
def test_slow_verdicts_leave_workers_for_quick_ones(num_workers, num_slow):
    async def scenario() -> int:
        lanes = PriorityLanes(num_workers)
        tasks = [await entered(lanes, Lane.SLOW, i) for i in range(2 * num_workers)]
        num_served = sum(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        return num_served

    assert asyncio.run(scenario()) == num_slow


def test_the_smallest_order_goes_first_in_either_lane():
    async def scenario() -> list[bool]:
        lanes = PriorityLanes(2)
        await lanes.enter(Lane.QUICK, 0)
        await lanes.enter(Lane.QUICK, 1)
        tasks = [
            await entered(lanes, lane, order)
            for lane, order in ((Lane.QUICK, 5), (Lane.SLOW, 3), (Lane.QUICK, 2))
        ]
        assert lanes.num_waiting == 3
        seen = []
        for _ in range(2):
            lanes.leave(Lane.QUICK)
            await asyncio.sleep(0)
            seen.append([task.done() for task in tasks])
        tasks[0].cancel()
        return seen

    assert asyncio.run(scenario()) == [[False, False, True], [False, True, True]]


def test_the_slow_lane_takes_quick_ones_while_it_has_room():
    async def scenario() -> tuple[bool, bool, bool]:
        lanes = PriorityLanes(2)
        await lanes.enter(Lane.QUICK, 0)
        await lanes.enter(Lane.QUICK, 1)
        first, second = lanes.change_to_slow(), lanes.change_to_slow()
        lanes.leave(Lane.SLOW)
        return first, second, lanes.change_to_slow()

    assert asyncio.run(scenario()) == (True, False, True)


def test_who_gives_up_waiting_loses_no_worker():
    async def scenario() -> None:
        lanes = PriorityLanes(1)
        await lanes.enter(Lane.QUICK, 0)
        given_up = await entered(lanes, Lane.QUICK, 1)
        at_the_same_moment = await entered(lanes, Lane.QUICK, 2)
        given_up.cancel()
        lanes.leave(Lane.QUICK)
        at_the_same_moment.cancel()  # its turn has come, and it has not run yet
        await asyncio.gather(given_up, at_the_same_moment, return_exceptions=True)
        await asyncio.wait_for(lanes.enter(Lane.QUICK, 3), 5)
        assert lanes.num_waiting == 0

    asyncio.run(scenario())
