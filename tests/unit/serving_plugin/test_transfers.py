"""Shards arrive from processes over gloo; whatever becomes of these, the server rank goes on."""

import itertools
import time

import pytest
import torch
from ordered_rank import OrderedRank, bytes_of, server_of_one_rank
from recorded_models import Model
from shard_senders import Behaviour, senders

from megatron_rl.serving_plugin.shard_receiver import loader

pytestmark = [pytest.mark.distributed, pytest.mark.lengthy]

ROWS, COLS, LENGTH = 24, 50, 999
# By turns from two sources: whole rows of w in place, blocks of its columns, parts of v that cast.
MESSAGES = [
    [0, True, [["w", 0, 8, COLS, COLS, 1, "float32"]]],
    [1, True, [["w", 8 * COLS, 8, COLS, COLS, 1, "float32"]]],
    [0, False, [["w", 16 * COLS, 8, 20, COLS, 1, "float32"], ["v", 0, 1, 499, 0, 1, "float32"]]],
    [1, False, [["w", 16 * COLS + 20, 8, 30, COLS, 1, "float32"]]],
    [1, False, [["v", 499, 1, 1, 0, 1, "bfloat16"], ["v", 500, 1, 499, 0, 1, "bfloat16"]]],
]
NUM = len(MESSAGES)
DIES = [*itertools.product(["dies_before", "dies_at"], range(NUM))]


def version(number: int) -> dict[str, torch.Tensor]:
    drawn = torch.manual_seed(number)
    return {
        "w": torch.randn(ROWS, COLS, generator=drawn),
        "v": torch.randn(LENGTH, generator=drawn).bfloat16(),
    }


def payloads(weights: dict[str, torch.Tensor]) -> list[tuple[int, bytes]]:
    """Return source and bytes of each message, as a learner would make them."""
    found = []
    for source, is_direct, pieces in MESSAGES:
        parts = [
            weights[name]
            .as_strided((rows, cols), (row_stride, col_stride), offset)
            .to(getattr(torch, dtype))
            for name, offset, rows, cols, row_stride, col_stride, dtype in pieces
        ]
        data = parts[0].contiguous().view(-1).view(torch.uint8) if is_direct else bytes_of(*parts)
        found.append((source, bytes(data.tolist())))
    return found


@pytest.fixture(autouse=True, scope="module")
def server():
    with server_of_one_rank():
        yield


@pytest.fixture
def rank():
    model = Model(
        lambda *_: None,
        w=torch.zeros(ROWS, COLS),
        v=torch.zeros(LENGTH, dtype=torch.bfloat16),
    )
    rank = OrderedRank(model)
    yield rank
    loader._state.leave()
    rank.store.set("over", "")


def join(rank, group):
    rank.do("join", **rank.joining(MESSAGES, group=group, num_sources=2))


def receive(rank, group, **changed):
    return rank.give(rank.order("receive", **(rank.receiving(MESSAGES, group=group) | changed)))


def assert_has(rank, weights):
    assert torch.equal(rank.model.w, weights["w"])
    assert torch.equal(rank.model.v, weights["v"])


def assert_receives_in_a_new_group(rank):
    """A server rank that has failed joins other senders, and has all that they send."""
    new = version(2)
    with senders(rank.store.port, "new", payloads(new), [Behaviour(), Behaviour()]):
        join(rank, "new")
        answer = receive(rank, "new")
        assert "fingerprints" in answer, answer
        assert_has(rank, new)


@pytest.mark.parametrize("window", [1, 2, 3, 64])
def test_shards_arrive_bit_for_bit_whatever_the_window(window, rank):
    weights = version(1)
    with senders(rank.store.port, "g", payloads(weights), [Behaviour(), Behaviour()]):
        join(rank, "g")
        answer = receive(rank, "g", window=window)
    assert answer["num_bytes"] == sum(len(data) for _, data in payloads(weights))
    assert_has(rank, weights)


@pytest.mark.parametrize("slow", [0, 1])
def test_a_slow_sender_is_waited_for_longer_than_one_wait_may_take(slow, rank):
    weights = version(1)
    behaviours = [Behaviour(pause_s=2.0 * (source == slow)) for source in (0, 1)]
    with senders(rank.store.port, "g", payloads(weights), behaviours):
        join(rank, "g")
        started = time.monotonic()
        receive(rank, "g", timeout_s=3.5)
        assert time.monotonic() - started > 3.5
    assert_has(rank, weights)


@pytest.mark.parametrize(("how", "number"), DIES)
def test_a_sender_that_dies_at_any_message_is_told_and_got_over(how, number, rank):
    source = MESSAGES[number][0]
    behaviours = [Behaviour(**({how: number} if s == source else {})) for s in (0, 1)]
    with senders(rank.store.port, "g", payloads(version(1)), behaviours):
        join(rank, "g")
        started = time.monotonic()
        answer = receive(rank, "g", timeout_s=60)
        # At once, not after the time that a message may take; some of one just begun may be there.
        assert time.monotonic() - started < 30
    if how == "dies_before" or "failed" in answer:
        assert answer["failed"].startswith("RuntimeError"), answer
        assert "not in group" in receive(rank, "g")["refused"]
    else:
        assert_has(rank, version(1))
    assert_receives_in_a_new_group(rank)


def test_a_sender_that_dies_after_the_last_message_is_not_missed(rank):
    weights = version(1)
    behaviours = [Behaviour(dies_before=NUM), Behaviour(dies_before=NUM)]
    with senders(rank.store.port, "g", payloads(weights), behaviours):
        join(rank, "g")
        assert "fingerprints" in receive(rank, "g")
    assert_has(rank, weights)
    assert_receives_in_a_new_group(rank)


@pytest.mark.parametrize("number", range(NUM))
def test_a_silent_sender_is_given_up_in_time_and_cannot_write_afterwards(number, rank):
    source = MESSAGES[number][0]
    behaviours = [Behaviour(is_silent_from=number if s == source else None) for s in (0, 1)]
    with senders(rank.store.port, "g", payloads(version(1)), behaviours) as processes:
        join(rank, "g")
        started = time.monotonic()
        answer = receive(rank, "g", timeout_s=1.0)
        assert "failed" in answer and 1.0 <= time.monotonic() - started < 20
        assert "not in group" in receive(rank, "g")["refused"]
        assert_receives_in_a_new_group(rank)
        before = rank.seen()
        rank.store.set("late", "")  # now it sends, to whom it knew
        processes[source].join(20)
        assert processes[source].exitcode not in (None, 0)
        assert rank.seen() == before


def test_senders_that_never_come_are_given_up_in_time(rank):
    fields = rank.joining(MESSAGES, group="nobody", num_sources=2) | {"timeout_s": 0.5}
    started = time.monotonic()
    answer = rank.give(rank.order("join", **fields))
    assert "failed" in answer and time.monotonic() - started < 20
    assert "not in group" in receive(rank, "nobody")["refused"]
    assert_receives_in_a_new_group(rank)


def test_a_new_learner_is_joined_while_the_old_group_is_open(rank):
    with senders(rank.store.port, "old", payloads(version(1)), [Behaviour(), Behaviour()]):
        join(rank, "old")
        assert_receives_in_a_new_group(rank)
        assert "not in group" in receive(rank, "old")["refused"]


class Watched:
    """A group that counts what is under way in it, and the buffers that it is given."""

    def __init__(self, group) -> None:
        self.group, self.under_way, self.most = group, 0, 0
        self.buffers: dict[int, int] = {}

    def recv(self, tensors, source, tag):
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        storage = tensors[0].untyped_storage()
        self.buffers[storage.data_ptr()] = storage.nbytes()
        watched, work = self, self.group.recv(tensors, source, tag)

        class Work:
            def wait(self, timeout):
                work.wait(timeout)
                watched.under_way -= 1

        return Work()

    def name(self):
        return self.group.name()


@pytest.mark.parametrize("window", [1, 2, 3, 8])
def test_no_more_is_under_way_than_the_window_and_no_more_held_than_its_buffers(window, rank):
    # 40 messages of 4 pieces each.
    pieces = [["v", start, 1, 6, 0, 1, "bfloat16"] for start in range(0, 960, 6)]
    messages = [[0, False, pieces[i : i + 4]] for i in range(0, len(pieces), 4)]
    (source,) = rank.join(messages, group="w")
    name, group = loader._state.group
    watched = Watched(group)
    loader._state.group = (name, watched)
    values = torch.randn(960).bfloat16()
    works = [
        source.send([bytes_of(*values[24 * i : 24 * i + 24].split(6))], 1, i) for i in range(40)
    ]
    fields = rank.receiving(messages, group="w") | {"window": window}
    answer = rank.do("receive", **fields)
    for work in works:
        work.wait()
    assert torch.equal(rank.model.v[:960], values)
    assert watched.most == window and watched.under_way == 0
    assert len(watched.buffers) == window
    assert sum(watched.buffers.values()) == window * answer["num_bytes"] // 40
