"""Orders are carried out and answered through a real store; nothing ever leaves ``receive``."""

import json
import time

import pytest
import torch
import torch.distributed as dist
from ordered_rank import OrderedRank, bytes_of, server_of_one_rank
from recorded_models import Model, numbered

from megatron_rl.serving_plugin.shard_receiver import loader, receive
from megatron_rl.serving_plugin.shard_receiver.fingerprints import fingerprint

MESSAGES = [
    [0, True, [["w", 0, 2, 3, 3, 1, "float32"]]],
    [0, False, [["v", 1, 1, 4, 0, 1, "bfloat16"], ["w", 6, 2, 3, 3, 1, "float32"]]],
]


@pytest.fixture(autouse=True, scope="module")
def server():
    with server_of_one_rank():
        yield


def load(model, name, tensor):
    getattr(model, name).data.copy_(tensor)


@pytest.fixture
def rank():
    rank = OrderedRank(Model(load, w=numbered(4, 3), v=numbered(6)))
    yield rank
    loader._state.leave()


def test_describe_answers_with_copies_and_reasons(rank):
    tensors = [["w", "float32", [4, 3]], ["absent", "float32", [2]]]
    answer = rank.do("describe", tensors=rank.keep(tensors))
    copies = json.loads(rank.store.get(f"content/{answer['copies']}"))
    assert copies == [["w", 0, [4, 3], [3, 1], "w", 0, [3, 1], "float32"]]
    assert list(answer["unmapped"]) == ["absent"]
    assert answer["world_size"] == 1 and answer["seconds"] >= 0


def test_shards_arrive_where_the_messages_say(rank):
    (source,) = rank.join(MESSAGES, group="a")
    top, bottom, cast = torch.randn(2, 3), torch.randn(2, 3), torch.randn(4).bfloat16()
    packed = bytes_of(cast, bottom)
    works = [source.send([top], 1, 0), source.send([packed], 1, 1)]
    answer = rank.do("receive", **rank.receiving(MESSAGES, group="a"))
    for work in works:
        work.wait()
    assert torch.equal(rank.model.w, torch.cat([top, bottom]))
    expected = numbered(6)
    expected[1:5] = cast
    assert torch.equal(rank.model.v, expected)
    assert answer["num_bytes"] == 24 + 16 + 32  # 8 and 24 bytes, to multiples of 16
    assert answer["fingerprints"] == [fingerprint(top), fingerprint(packed)]


def test_poison_and_fingerprints_tell_what_messages_reach_from_the_rest(rank):
    rank.join(MESSAGES, group="b")
    before = rank.do("fingerprints")["fingerprints"]
    assert before["w"] == [fingerprint(numbered(4, 3)), 0]  # messages reach all of it
    rank.do("poison")
    after = rank.do("fingerprints")["fingerprints"]
    assert rank.model.w.isnan().all()
    assert rank.model.v.isnan().tolist() == [False, True, True, True, True, False]
    assert {name: found[1] for name, found in before.items()} == {
        name: found[1] for name, found in after.items()
    }
    rank.model.v.data[5] += 1
    assert rank.do("fingerprints")["fingerprints"]["v"][1] != after["v"][1]


def test_the_rest_of_a_transposed_parameter_is_told_as_well(rank):
    rank.model.w.data = numbered(3, 4).T
    messages = [[0, False, [["w", 1, 1, 10, 0, 1, "float32"]]]]
    rank.join(messages, group="transposed")
    before = rank.do("fingerprints")["fingerprints"]["w"]
    rank.do("poison")
    after = rank.do("fingerprints")["fingerprints"]["w"]
    assert before[0] != after[0] and before[1] == after[1]


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.float8_e4m3fn])
def test_every_type_can_be_poisoned(dtype, rank):
    rank.model.w.data = torch.zeros(4, 3).to(dtype)
    name = str(dtype).removeprefix("torch.")
    rank.join([[0, True, [["w", 3, 2, 3, 3, 1, name]]]], group=f"poison {name}")
    rank.do("poison")
    changed = rank.model.w.data.view(torch.uint8).view(4, -1).any(dim=1)
    assert changed.tolist() == [False, True, True, False]


def test_a_replaced_parameter_is_found_by_its_name(rank):
    (source,) = rank.join(MESSAGES[:1], group="c")
    rank.model.w = torch.nn.Parameter(torch.zeros(4, 3), requires_grad=False)
    sent = torch.randn(2, 3)
    work = source.send([sent], 1, 0)
    rank.do("receive", **rank.receiving(MESSAGES[:1], group="c"))
    work.wait()
    assert torch.equal(rank.model.w[:2], sent)


def test_a_parameter_that_has_become_smaller_is_not_received_into(rank):
    rank.join(MESSAGES, group="d")
    rank.model.w = torch.nn.Parameter(torch.zeros(3, 3), requires_grad=False)
    for op, fields in [
        ("receive", rank.receiving(MESSAGES, group="d")),
        ("poison", {}),
        ("fingerprints", {}),
    ]:
        before = rank.seen()
        answer = rank.give(rank.order(op, **fields))
        assert "9 elements" in answer["refused"], op
        assert rank.seen() == before


def test_what_a_model_derives_from_its_weights_is_computed_last(rank):
    (source,) = rank.join(MESSAGES[:1], group="e")
    rank.model.post_load_weights = lambda: rank.model.v.data.fill_(float(rank.model.w[0, 0]))
    work = source.send([torch.full((2, 3), 7.0)], 1, 0)
    rank.do("receive", **rank.receiving(MESSAGES[:1], group="e"))
    work.wait()
    assert rank.model.v.tolist() == [7.0] * 6


@pytest.mark.parametrize(
    "named_tensors",
    [
        [],
        None,
        [()],
        [(None, None)],
        [("", None)],
        [("{", None)],
        [("[]", None)],
        [("null", None)],
        [("{}", None)],
        [('{"store": 1}', None)],
        [('{"store": ["127.0.0.1", 1]}', None)],
        [("[" * 100_000, None)],
        [(b"\xff\xfe", None)],
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_order_is_left_unanswered(named_tensors, rank):
    before = rank.seen()
    started = time.monotonic()
    receive(rank.model, named_tensors)
    assert time.monotonic() - started < 20
    assert rank.seen() == before


@pytest.mark.parametrize(
    "address",
    [
        *(None, "127.0.0.1", [], ["127.0.0.1"], ["127.0.0.1", "80"], ["127.0.0.1", True]),
        *(["127.0.0.1", 0], ["127.0.0.1", 65_536], ["127.0.0.1", -1], [5, 80], ["", 80]),
        ["127.0.0.1", 80, 80],
    ],
    ids=str,
)
def test_an_address_that_is_none_is_left_unanswered(address, rank):
    before = rank.seen()
    assert rank.give(rank.order("fingerprints") | {"store": address}) is None
    assert rank.seen() == before


@pytest.mark.parametrize("token", [None, "", 5, True, ["a"], "a" * 201, {}], ids=str)
def test_nor_is_an_order_without_a_token_carried_out(token, rank):
    rank.join(MESSAGES, group=f"token {token!s:.20}")
    before = rank.seen()
    assert rank.give(rank.order("poison") | {"token": token}) is None
    assert rank.seen() == before


def test_the_token_of_another_order_is_not_used_again(rank):
    rank.join(MESSAGES, group="f")
    first = rank.order("fingerprints")
    assert "fingerprints" in rank.give(first)
    before = rank.seen()
    assert rank.give(rank.order("poison") | {"token": first["token"]}) is None
    assert rank.give(first) is None
    assert rank.seen() == before


def test_a_loader_that_raises_is_answered_for(rank):
    def broken():
        raise ValueError("no weights")

    (source,) = rank.join(MESSAGES[:1], group="g")
    rank.model.post_load_weights = broken
    work = source.send([torch.zeros(2, 3)], 1, 0)
    answer = rank.give(rank.order("receive", **rank.receiving(MESSAGES[:1], group="g")))
    work.wait()
    assert answer["failed"] == "ValueError: no weights"
    again = rank.give(rank.order("receive", **rank.receiving(MESSAGES[:1], group="g")))
    assert "not in group" in again["refused"]


def test_a_model_without_a_loader_is_answered_for(rank):
    rank.model = torch.nn.Linear(2, 2)
    answer = rank.give(rank.order("describe", tensors=rank.keep([["w", "float32", [2]]])))
    assert "load_weights" in str(answer)


def test_a_learner_that_starts_again_at_the_same_port_is_answered(rank):
    rank.do("fingerprints")
    port = rank.store.port
    rank.store = rank._source_store = None
    for _ in range(50):
        try:
            rank.store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
            break
        except RuntimeError:
            time.sleep(0.1)
    assert rank.do("fingerprints")["fingerprints"].keys() == {"w", "v"}


def test_nothing_leaves_where_there_is_no_default_group():
    rank = OrderedRank(Model(load, w=numbered(2)))
    order = rank.order("fingerprints")
    dist.destroy_process_group()
    try:
        receive(rank.model, [(json.dumps(order), None)])
    finally:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
