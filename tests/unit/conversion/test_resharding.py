"""Shards of any learner layout arrive on any server rank as its own loaders would have put them."""

import json
import random

import pytest
import torch
from family_configs import CONFIGS, GPT_OSS, QWEN2, QWEN3, QWEN3_MOE
from hypothesis import given, settings
from hypothesis import strategies as st
from sharded_server import ServerLayout, ServerModel

from megatron_rl.conversion.families import model_spec, weight_rules
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.conversion.layouts import shard, to_megatron
from megatron_rl.conversion.resharding import (
    DType,
    LearnerMap,
    Place,
    Planner,
    ServerMap,
    messages_as_json,
    pack_messages,
)
from megatron_rl.conversion.stacked import PartReader
from megatron_rl.errors import ConfigError
from megatron_rl.parallelism.layouts import Layout, check_layout
from megatron_rl.serving_plugin.shard_receiver.recording import record
from megatron_rl.serving_plugin.shard_receiver.regions import tensors_of
from megatron_rl.serving_plugin.shard_receiver.transfer import (
    check_messages,
    read_messages,
    receive_messages,
)


class Sent:
    """What learner ranks send to one server rank, in place of a process group."""

    def __init__(self, by_number: dict[int, tuple[int, torch.Tensor]]) -> None:
        self.by_number = by_number

    def recv(self, tensors: list[torch.Tensor], source: int, number: int) -> "Sent":
        sender, payload = self.by_number.pop(number)
        assert sender == source
        (target,) = tensors
        target.view(torch.uint8).copy_(payload)
        return self

    def wait(self, _timeout) -> None:
        """Everything has arrived."""


def whole_tensors(spec, *, dtype=torch.float32) -> dict[str, torch.Tensor]:
    """Tensors filled with their own coordinates: no two elements of the model are equal."""
    tensors, start = {}, 1
    for name, shape in tensor_shapes(spec):
        count = torch.Size(shape).numel()
        tensors[name] = torch.arange(start, start + count).to(dtype).view(shape)
        start += count
    assert start < 2**24  # exact in float32
    return tensors


def ranks_of(spec, layout: Layout, dp: int, whole: dict[str, torch.Tensor]):
    """Return a LearnerMap and every rank's parameters, in an order of ranks of our own."""
    stages = {}
    for rule in weight_rules(spec):
        parts = rule.megatron.split(".")
        layer = int(parts[2]) if parts[1] == "layers" else None
        if layer is None:
            stages[rule.megatron] = 0 if parts[0] == "embedding" else layout.pp - 1
        else:
            per_chunk = spec.num_layers // (layout.pp * layout.vpp)
            stages[rule.megatron] = layer // per_chunk % layout.pp
    places = [
        Place(
            stage=stage,
            tp_rank=dense % layout.tp,
            ep_rank=dense // layout.etp % layout.ep,
            etp_rank=dense % layout.etp,
        )
        for stage in range(layout.pp)
        for dense in range(layout.tp * dp)
    ]
    experts = spec.num_experts // layout.ep
    learner = LearnerMap(
        places=places, stages=stages, tp=layout.tp, etp=layout.etp, experts_per_rank=experts
    )
    parameters: list[dict[str, torch.Tensor]] = [{} for _ in places]
    tensors_of = PartReader(whole.__getitem__)
    for rule in weight_rules(spec):
        size = learner.num_parts(rule)
        merged = to_megatron(
            rule.layout,
            tensors_of(rule),
            num_groups=spec.num_groups,
            head_dim=spec.head_dim,
            interleaved_dim=spec.interleaved_dim,
            tp_size=size,
        )
        for part, ranks in enumerate(learner.holders(rule)):
            assert ranks, rule
            for rank in ranks:
                cut = shard(rule.layout, merged, tp_size=size, tp_rank=part)
                parameters[rank][rule.megatron] = cut.contiguous()
    return learner, parameters


def resharded(spec, layout: Layout, dp: int, server: ServerModel, *, replica: int, bucket: int):
    """Move every shard of a learner to one server rank; return the bytes that it received."""
    learner, parameters = ranks_of(spec, layout, dp, whole_tensors(spec))
    dtypes = dict.fromkeys(dict(tensor_shapes(spec)), DType(name="float32", itemsize=4))
    recording = record(
        server, [(name, "float32", list(shape)) for name, shape in tensor_shapes(spec)]
    )
    assert recording.unmapped == {}
    server_map = ServerMap.from_json(json.dumps(recording.copies))
    planner = Planner(spec, learner)
    assert planner.unmappable(server_map) == {}
    pieces = planner.pieces(server_map, replica=replica)
    messages = pack_messages(pieces, dtypes, direct_bytes=bucket // 4, bucket_bytes=bucket)
    senders = sorted({message.source for message in messages})
    told = read_messages(
        json.loads(messages_as_json(messages, dtypes, senders=senders)), num_sources=len(senders)
    )
    assert [m.num_bytes for m in told] == [m.num_bytes for m in messages]
    sent = Sent(
        {
            number: (senders.index(message.source), payload_of(message, parameters))
            for number, message in enumerate(messages)
        }
    )
    tensors = tensors_of(server)
    check_messages(told, tensors)
    receive_messages(told, tensors, sent, window=3, timeout_s=1, with_fingerprints=False)
    assert sent.by_number == {}
    return messages


def payload_of(message, parameters) -> torch.Tensor:
    parts = []
    for piece in message.pieces:
        source = parameters[message.source][piece.from_parameter]
        values = source.as_strided(
            (piece.rows, piece.cols),
            (piece.row_stride, 1),
            source.storage_offset() + piece.offset,
        ).contiguous()
        data = values.view(-1).view(torch.uint8)
        if not message.is_direct:
            data = torch.cat([data, data.new_zeros(-data.numel() % 16)])
        parts.append(data)
    return torch.cat(parts)


def assert_arrives(spec, layout: Layout, dp: int, server_layout: ServerLayout, **options) -> None:
    expected, server = ServerModel(spec, server_layout), ServerModel(spec, server_layout)
    expected.load_weights(whole_tensors(spec).items())
    resharded(spec, layout, dp, server, **options)
    for (name, wanted), (_, found) in zip(
        expected.named_parameters(), server.named_parameters(), strict=True
    ):
        assert torch.equal(wanted, found), name


LAYOUTS = [
    Layout(tp=tp, sp=tp > 1, pp=pp, vpp=vpp, cp=1, ep=ep, etp=etp)
    for tp in (1, 2)
    for pp in (1, 2)
    for vpp in (1, 2)
    for ep in (1, 2, 4)
    for etp in (1, 2)
]
SERVERS = [
    ServerLayout(tp=tp, rank=rank, ep=ep, transposes_experts=turned, swaps_gate_and_up=swapped)
    for tp in (1, 2, 4)
    for rank in range(tp)
    for ep in (1, 2, 4)
    if tp % ep == 0
    for turned in (False, True)
    for swapped in (False, True)
]


def legal(spec, layout: Layout, dp: int) -> bool:
    try:
        check_layout(layout, spec)
    except ConfigError:
        return False
    return layout.tp * dp % (layout.ep * layout.etp) == 0


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["model_type"])
def test_every_family_arrives_from_thirty_random_layouts(config):
    kinds = {"layer_types": 2 * config["layer_types"]} if "layer_types" in config else {}
    spec = model_spec({**config, "num_hidden_layers": 4, "vocab_size": 101, **kinds})
    chosen = random.Random(config["model_type"])
    pairs = [
        (layout, dp, server)
        for layout in LAYOUTS
        for dp in (1, 2, 4)
        for server in SERVERS
        if legal(spec, layout, dp)
    ]
    assert len(CONFIGS) * 30 >= 200
    for layout, dp, server in chosen.sample(pairs, 30):
        assert_arrives(
            spec,
            layout,
            dp,
            server,
            replica=chosen.randrange(8),
            bucket=chosen.choice([256, 4096, 1 << 20]),
        )


@settings(max_examples=40, deadline=None)
@given(
    heads=st.sampled_from([(2, 2), (4, 2), (6, 2), (8, 4)]),
    tp=st.sampled_from([1, 2]),
    server_tp=st.sampled_from([1, 2, 4]),
    rows=st.integers(2, 300),
    is_tied=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_heads_vocabularies_and_biases_that_do_not_line_up(
    heads, tp, server_tp, rows, is_tied, seed
):
    queries, keys = heads
    if queries % server_tp:
        queries, keys = 4, 2
    config = QWEN2 | {
        "num_attention_heads": queries,
        "num_key_value_heads": keys,
        "hidden_size": queries * 8,
        "head_dim": 8,
        "vocab_size": rows,
        "tie_word_embeddings": is_tied,
    }
    layout = Layout(tp=tp, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
    server = ServerLayout(tp=server_tp, rank=seed % server_tp)
    assert_arrives(model_spec(config), layout, 2, server, replica=seed, bucket=1 + seed % 3000)


def test_copies_of_a_part_share_the_work():
    spec = model_spec(QWEN3)
    layout = Layout(tp=2, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
    server = ServerModel(spec, ServerLayout(tp=1, rank=0))
    sources = [
        {m.source for m in resharded(spec, layout, 2, server, replica=replica, bucket=1 << 20)}
        for replica in (0, 1)
    ]
    assert sources == [{0, 1}, {2, 3}]


def test_a_server_rank_receives_its_shard_and_no_more():
    spec = model_spec(QWEN3_MOE)
    layout = Layout(tp=1, sp=False, pp=2, vpp=1, cp=1, ep=2, etp=1)
    server = ServerModel(spec, ServerLayout(tp=2, rank=1, ep=2))
    messages = resharded(spec, layout, 2, server, replica=0, bucket=1 << 20)
    true_rows = spec.vocab_size  # 128: no padding at all
    assert true_rows % 128 == 0
    held = sum(parameter.nbytes for parameter in server.parameters())
    assert sum(message.num_bytes for message in messages) == held


def test_no_message_is_larger_than_a_bucket():
    spec = model_spec(QWEN3)
    layout = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
    server = ServerModel(spec, ServerLayout(tp=2, rank=0))
    messages = resharded(spec, layout, 1, server, replica=0, bucket=2000)
    assert len(messages) > 10
    assert max(message.num_bytes for message in messages) <= 2000


def test_experts_of_one_tensor_travel_in_rows_of_their_own_parameters():
    """Interleaved and transposed as they are: no piece is an element, and none is sent twice."""
    spec = model_spec(GPT_OSS)
    layout = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=2, etp=1)
    server = ServerModel(spec, ServerLayout(tp=2, rank=0))
    messages = resharded(spec, layout, 2, server, replica=0, bucket=1 << 20)
    pieces = [piece for message in messages for piece in message.pieces]
    (fused, down) = (
        [(piece.rows, piece.cols) for piece in pieces if piece.tensor.endswith(name)]
        for name in ("experts.gate_up_proj", "experts.down_proj")
    )
    # 2 layers of 4 experts; gate and up apart, 96 / 2 rows each, of 64 inputs.
    assert fused == [(48, 64)] * 2 * 4 * 2
    assert down == [(64, 48)] * 2 * 4
    held = sum(parameter.numel() for parameter in server.parameters())
    assert sum(piece.num_elements for piece in pieces) == held


def test_a_bias_that_the_loader_clears_is_sent_to_nobody():
    """It is added by the first rank alone: SGLang's loader writes zeros on the others."""
    spec = model_spec(GPT_OSS)
    described = [(name, "float32", list(shape)) for name, shape in tensor_shapes(spec)]
    biases = {name for name, _, _ in described if name.endswith("down_proj_bias")}
    for rank, expected in ((0, biases), (1, set())):
        server = ServerModel(spec, ServerLayout(tp=2, rank=rank))
        recording = record(server, described)
        assert recording.unmapped == {}
        assert {copy.tensor for copy in recording.copies} & biases == expected


def test_a_layout_that_is_not_known_as_rectangles_is_left_to_whole_tensors():
    spec = model_spec(QWEN3)
    layout = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
    learner, _ = ranks_of(spec, layout, 1, whole_tensors(spec))
    planner = Planner(spec, learner)
    assert planner.mapped() == frozenset(dict(tensor_shapes(spec)))
    stranger = ServerMap.from_json(
        json.dumps([["another.tensor", 0, [4], [1], "p", 0, [1], "float32"]])
    )
    assert list(planner.unmappable(stranger)) == ["another.tensor"]


COPY = ["model.norm.weight", 0, [64], [1], "norm", 0, [1], "float32"]


@pytest.mark.parametrize(
    "values",
    [
        {},
        "copies",
        [[]],
        [COPY[:-1]],
        [None],
        *([[*COPY[:i], None, *COPY[i + 1 :]]] for i in range(len(COPY))),
        [[*COPY[:1], -1, *COPY[2:]]],
        [[*COPY[:2], [64, 1], *COPY[3:]]],
        [[*COPY[:3], [True], *COPY[4:]]],
    ],
)
def test_what_is_no_map_of_a_server_is_told_by_a_value_error(values):
    assert ServerMap.from_json(json.dumps([COPY])).tensors() == {COPY[0]}
    with pytest.raises(ValueError, match=r"not a copy|no list"):
        ServerMap.from_json(json.dumps(values))


def test_a_copy_of_more_than_the_tensor_has_is_not_planned():
    spec = model_spec(QWEN3)
    learner, _ = ranks_of(
        spec, Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1), 1, whole_tensors(spec)
    )
    longer = [*COPY[:2], [65], *COPY[3:]]
    server_map = ServerMap.from_json(json.dumps([longer]))
    (reason,) = Planner(spec, learner).unmappable(server_map).values()
    assert "more than it has" in reason
