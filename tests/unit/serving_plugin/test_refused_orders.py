"""Orders that are malformed, or reach out of a parameter, are refused and touch nothing."""

import copy
import datetime
import hashlib
import json
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ordered_rank import OrderedRank, server_of_one_rank
from recorded_models import Model, numbered

from megatron_rl.serving_plugin.shard_receiver import loader, orders
from megatron_rl.serving_plugin.shard_receiver.regions import (
    RefusedError,
    check_region,
    read_region,
    view_of,
)
from megatron_rl.serving_plugin.shard_receiver.transfer import check_messages, read_messages

# w has 12 elements, v 6, whole numbers 4.
REGION = ["w", 3, 2, 3, 3, 1, "float32"]
MESSAGES = [
    [0, True, [REGION]],
    [0, False, [["v", 1, 1, 4, 0, 1, "bfloat16"], ["n", 0, 4, 1, 1, 0, "int32"]]],
]


@pytest.fixture(autouse=True, scope="module")
def server():
    with server_of_one_rank():
        yield


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Texts that are nowhere are not waited for."""
    monkeypatch.setattr(orders, "_PATIENCE", datetime.timedelta(seconds=0.05))


@pytest.fixture(scope="module")
def rank():
    def load(model, name, tensor):
        getattr(model, name).data.copy_(tensor)

    # In the middle of a larger memory: what is written beside a parameter would show.
    memory = numbered(100)
    model = Model(
        load,
        w=memory[40:52].view(4, 3),
        v=numbered(6),
        n=numbered(4, dtype=torch.int32),
        holes=numbered(4, 4)[:, :2],
        empty=torch.empty(0),
    )
    model.memory = memory
    return OrderedRank(model)


@pytest.fixture
def joined(rank):
    """Return the fields of a valid order to receive, from a source that never sends."""
    group = f"group {random.getrandbits(64)}"
    sources = rank.join(MESSAGES, group=group)
    yield rank.receiving(MESSAGES, group=group)
    loader._state.leave()
    sources.clear()


def refusal(rank, op, fields, **changed):
    """Return why an order is refused, which has touched nothing."""
    before = rank.seen(), rank.model.memory.tolist()
    answer = rank.give(rank.order(op, **(fields | changed)))
    assert (rank.seen(), rank.model.memory.tolist()) == before
    return answer["refused"]


NUMBERS = [None, -1, True, 1.0, "1", [1], {}, 2**70]
BAD = {
    "parameter": ["", "u", "weight", None, 5, True, ["w"], "w\0", "__class__", "w.data"],
    "offset": [*NUMBERS, 7, 12, 2**31, 2**63],
    "rows": [*NUMBERS, 0, 4, 2**63],
    "cols": [*NUMBERS, 0, 7, 2**63],
    "row_stride": [*NUMBERS, 7, 2, 1, 0, 2**63],
    "col_stride": [*NUMBERS, 0, 3, 4, 2**63],
    "dtype": [
        *("Tensor", "__class__", "float32 ", "torch.float32", "", "quint8", "complex64", "uint16"),
        *("load", "os", "int64", "int32", "bool", "nn", None, 5, True, ["float32"]),
    ],
}
FIELDS = list(BAD)


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD.items() for value in values],
    ids=str,
)
def test_a_wrong_field_of_a_region_is_refused(field, value, rank):
    region = list(REGION)
    region[FIELDS.index(field)] = value
    messages = [[0, False, [["v", 0, 1, 6, 0, 1, "float32"], region]]]
    assert refusal(rank, "join", rank.joining(messages, group="never"))


@pytest.mark.parametrize(
    "region",
    [
        *(None, 5, True, "w", {}, [], ["w"], REGION[:-1], [*REGION, 1], [REGION]),
        dict(zip(FIELDS, REGION, strict=True)),
    ],
    ids=str,
)
def test_what_is_no_region_is_refused(region, rank):
    assert refusal(rank, "join", rank.joining([[0, False, [region]]], group="never"))


@pytest.mark.parametrize(
    "messages",
    [
        *(None, 5, True, "[]", {}, [None], [5], ["abc"], [[]], [[0, True]], [[0, True, [], 1]]),
        *([[source, True, [REGION]]] for source in (-1, 1, 2, True, False, "0", 0.0, None, 2**70)),
        *([[0, flag, [REGION]]] for flag in (0, 1, None, "true", [])),
        *([[0, flag, pieces]] for flag in (True, False) for pieces in ([], None, {}, 5, "w")),
        [[0, True, [REGION, ["v", 0, 1, 6, 0, 1, "float32"]]]],
        {"0": [0, True, [REGION]]},
    ],
    ids=str,
)
def test_what_is_no_message_is_refused(messages, rank):
    assert refusal(rank, "join", rank.joining(messages, group="never"))


@pytest.mark.parametrize(
    "region",
    [
        ["w", 0, 2, 2, 3, 1, "float32"],  # part of each row
        ["w", 0, 3, 4, 1, 3, "float32"],  # columns
        ["w", 0, 4, 3, 3, 1, "bfloat16"],  # another type
        ["w", 0, 3, 1, 3, 0, "float32"],
        ["w", 0, 1, 4, 0, 3, "float32"],
    ],
    ids=str,
)
def test_what_cannot_be_received_in_place_is_refused_alone_and_not_with_others(region, rank):
    fields = rank.joining([[0, True, [region]]], group="never")
    assert "in place" in refusal(rank, "join", fields)
    check_messages(
        read_messages([[0, False, [region]]], num_sources=1), dict(rank.model.named_parameters())
    )


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "int32"])
def test_types_that_are_not_cast_to_each_other_are_refused(dtype, rank):
    """FP8 means nothing without its scales, though torch would cast it."""
    region = [*REGION[:-1], dtype]
    answer = refusal(rank, "join", rank.joining([[0, False, [region]]], group="never"))
    assert "is not cast to" in answer


@pytest.mark.parametrize("name", ["holes", "empty"])
def test_a_parameter_that_is_not_whole_is_refused(name, rank):
    messages = [[0, False, [[name, 0, 1, 1, 0, 1, "float32"]]]]
    assert refusal(rank, "join", rank.joining(messages, group="never"))


def test_places_that_are_sent_twice_are_refused(rank):
    messages = [[0, True, [["w", 0, 4, 3, 3, 1, "float32"]]], [0, True, [REGION]]]
    assert "18 are sent" in refusal(rank, "join", rank.joining(messages, group="never"))


@given(
    offset=st.integers(0, 14),
    rows=st.integers(1, 14),
    cols=st.integers(1, 14),
    row_stride=st.integers(0, 14),
    col_stride=st.integers(0, 14),
)
def test_a_region_is_taken_if_and_only_if_it_lies_within(
    offset, rows, cols, row_stride, col_stride
):
    memory = torch.zeros(100)
    tensors = {"w": memory[40:52].view(4, 3)}
    region = read_region(["w", offset, rows, cols, row_stride, col_stride, "float32"])
    places = [offset + r * row_stride + c * col_stride for r in range(rows) for c in range(cols)]
    is_legal = max(places) < 12 and len(set(places)) == len(places)
    try:
        check_region(region, tensors)
    except RefusedError:
        # Rows between those of another column are legal and of no use.
        assert not is_legal or not is_nested(rows, cols, row_stride, col_stride)
        return
    assert is_legal
    view_of(region, tensors).fill_(1)
    assert memory.nonzero().flatten().tolist() == sorted(40 + place for place in places)


def is_nested(rows, cols, row_stride, col_stride):
    return (
        cols == 1
        or rows == 1
        or row_stride > (cols - 1) * col_stride
        or (col_stride > (rows - 1) * row_stride)
    )


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(JUNK)
def test_anything_else_is_refused_as_messages(junk):
    try:
        messages = read_messages(junk, num_sources=1)
    except RefusedError:
        return
    assert messages == ()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("group", [None, "", 5, ["g"], "a" * 201]),
        ("num_sources", [*NUMBERS, 2**17]),
        ("backend", ["mpi", "", None, 5, "GLOO", "ucc", "fake"]),
        ("timeout_s", [None, 0, -1, True, "5", [], float("inf"), float("nan"), 1e9]),
        ("messages", [None, [], "abc", {}, [None], [5], [["a"]], ["0" * 64], ["0" * 64] * 2]),
    ],
)
def test_a_wrong_field_of_an_order_to_join_is_refused(field, values, rank):
    for value in values:
        fields = rank.joining(MESSAGES, group="never")
        assert refusal(rank, "join", fields, **{field: value}), value


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("group", [None, "", 5, "another", ["g"]]),
        ("window", [*NUMBERS, 0, 65, 10**9]),
        ("timeout_s", [None, 0, -1, True, "5", float("inf"), float("nan"), 1e9]),
        ("with_fingerprints", [None, 0, 1, "true", []]),
        ("messages", [None, [], "abc", [None], ["0" * 64]]),
        ("sister", [None, 5, ["g"], "nobody's", "a" * 201]),
    ],
)
def test_a_wrong_field_of_an_order_to_receive_is_refused(field, values, rank, joined):
    for value in values:
        assert refusal(rank, "receive", joined, **{field: value}), value
    assert loader._state.group is not None


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("feeder", [None, 5, ["g"], "a" * 201]),
        ("sister", [None, 5, ["g"], "a" * 201]),
        ("backend", ["mpi", "", None, 5]),
        ("timeout_s", [None, 0, -1, True, "5", float("nan")]),
        ("messages", [None, [], "abc", {}, [None], ["0" * 64], ["0" * 64] * 2]),
    ],
)
def test_a_wrong_field_of_an_order_to_meet_a_pair_is_refused(field, values, rank):
    for value in values:
        assert refusal(rank, "relay", relaying(rank, MESSAGES), **{field: value}), value
    assert loader._state.feeder is None


def relaying(rank, messages):
    return {
        "feeder": "never",
        "sister": "",
        "messages": [rank.keep(messages)],
        "backend": "gloo",
        "timeout_s": 0.05,
    }


def test_messages_that_a_feeder_may_not_send_are_refused(rank):
    outside = [[0, True, [["w", 9, 2, 3, 3, 1, "float32"]]]]
    assert "w" in refusal(rank, "relay", relaying(rank, outside))
    # In the group of a pair there is one source.
    assert "not a message" in refusal(rank, "relay", relaying(rank, [[1, True, [REGION]]]))


def test_a_feeder_that_does_not_come_is_named_and_nothing_is_kept(rank):
    answer = rank.do("relay", **relaying(rank, MESSAGES))
    assert answer["absent"] == "never"
    assert loader._state.feeder is None


def test_other_messages_than_agreed_on_are_refused(rank, joined):
    others = rank.keep(MESSAGES[:1])
    assert "agreed on" in refusal(rank, "receive", joined, messages=[others])


@pytest.mark.parametrize("op", [None, "", 5, "_OPS", "__init__", ["join"], {}, "Join", "exec"])
def test_an_unknown_order_is_refused(op, rank):
    assert refusal(rank, op, {})


def test_a_text_that_is_not_that_of_its_digest_is_refused(rank):
    for op, fields in [
        ("join", rank.joining(MESSAGES, group="never")),
        ("describe", {"tensors": rank.keep([["w", "float32", [4, 3]]])}),
    ]:
        digest = fields["messages"][0] if op == "join" else fields["tensors"]
        rank.store.set(f"content/{digest}", json.dumps([[0, True, [REGION]]]))
        assert "another text" in refusal(rank, op, fields)
        rank.store.delete_key(f"content/{digest}")
        assert "does not have" in refusal(rank, op, fields)


@pytest.mark.parametrize("text", ["", "{", "nul", "[" * 100_000, "\ud800"], ids=lambda t: t[:9])
def test_a_text_that_is_no_json_is_refused(text, rank):
    data = text.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(data).hexdigest()
    rank.store.set(f"content/{digest}", data.decode("latin-1") if "\ud800" in text else text)
    fields = rank.joining(MESSAGES, group="never") | {"messages": [digest]}
    assert refusal(rank, "join", fields)


@pytest.mark.parametrize(
    "tensors",
    [
        *(None, 5, "w", {}, [5], ["wfs"], [["w"]], [["w", "float32"]]),
        *([["w", dtype, [4, 3]]] for dtype in ("Tensor", "__class__", "quint8", None, 5, ["a"])),
        *([["w", "float32", s]] for s in (None, 5, "43", [-1], [1.0], [True], [None], [2**41])),
        *([[name, "float32", [4, 3]]] for name in (None, 5, ["w"])),
        [["w", "float32", [4, 3]], ["w", "float32", [4, 3]]],
    ],
    ids=str,
)
def test_what_describes_no_tensors_is_refused(tensors, rank):
    assert refusal(rank, "describe", {"tensors": rank.keep(tensors)})


def mutated(value, chosen):
    """Change one place of a JSON value, wherever it is."""
    value = copy.deepcopy(value)
    places = list(places_of(value))
    parent, key = chosen.choice(places)
    old = parent[key]
    junk = [None, True, -1, 0, 1, 2**33, 2**70, 1.5, "", "w", "v", "float32", "Tensor", [], {}]
    if type(old) is int:
        junk += [old + 1, old - 1, old * 2, -old, str(old), float(old)]
    if isinstance(old, list) and old:
        junk += [old[:-1], [*old, old[0]], old[::-1], old * 3, old[0]]
    new = chosen.choice(junk)
    if chosen.random() < 0.1:
        del parent[key]
    else:
        parent[key] = new
    return value


def places_of(value):
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(entries):
        yield value, key
        if isinstance(inner, list | dict):
            yield from places_of(inner)


@pytest.mark.lengthy
@pytest.mark.parametrize("part", range(10))
def test_a_thousand_mutations_touch_nothing(part, rank):
    chosen = random.Random(part)
    group = f"mutations {part}"
    sources = rank.join(MESSAGES, group=group)
    before = rank.seen(), rank.model.memory.tolist()
    kinds = {"refused": 0, "failed": 0, "unanswered": 0, "done": 0}
    for index in range(100):
        if loader._state.group is None:
            sources = rank.join(MESSAGES, group=f"{group} {index}")
        if index % 2:
            # Messages that stay legal wait for a source that never comes: not for long.
            fields = rank.joining(mutated(MESSAGES, chosen), group="never") | {"timeout_s": 0.01}
            order = rank.order("join", **fields)
        else:
            op = chosen.choice(["join", "receive", "fingerprints", "leave", "describe", "relay"])
            fields = rank.joining(MESSAGES, group="never") if op == "join" else {}
            if op == "receive":
                fields = rank.receiving(MESSAGES, group=loader._state.group[0])
            if op == "relay":
                fields = relaying(rank, MESSAGES)
            if op == "describe":
                fields = {"tensors": rank.keep([["w", "float32", [4, 3]]])}
            order = mutated(rank.order(op, **fields) | {"timeout_s": 0.01}, chosen)
            if isinstance(order.get("timeout_s"), int | float) and order["timeout_s"] > 0.01:
                order["timeout_s"] = 0.01
        answer = rank.give(order)
        assert (rank.seen(), rank.model.memory.tolist()) == before, order
        kind = "unanswered" if answer is None else next(iter({*kinds} & {*answer}), "done")
        kinds[kind] += 1
    sources.clear()
    loader._state.leave()
    assert kinds["refused"] > 30, kinds


def test_after_all_of_it_a_valid_order_is_carried_out(rank):
    (source,) = rank.join(MESSAGES[:1], group="last")
    before = rank.model.memory.clone()
    work = source.send([torch.full((2, 3), -1.0)], 1, 0)
    rank.do("receive", **rank.receiving(MESSAGES[:1], group="last"))
    work.wait()
    changed = (rank.model.memory != before).nonzero().flatten().tolist()
    assert changed == list(range(43, 49))
