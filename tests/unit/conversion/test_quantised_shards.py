"""Blocks that learner ranks quantise by themselves are, bit for bit, those of the whole tensors."""

import json
import random

import pytest
import torch
from family_configs import GLM4, QWEN2_MOE, QWEN3, QWEN3_MOE
from hypothesis import given, settings
from hypothesis import strategies as st
from test_resharding import LAYOUTS, Sent, legal, payload_of, ranks_of

from megatron_rl.conversion.block_fp8.blocks import quantise_blocks, quantised_weights
from megatron_rl.conversion.block_fp8.tensors import quantised_tensors, scale_name, served_tensors
from megatron_rl.conversion.families import float32_tensors, model_spec
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.conversion.resharding import (
    DType,
    Planner,
    ServerMap,
    messages_as_json,
    pack_messages,
)
from megatron_rl.learner import quantised_shards
from megatron_rl.learner.quantised_shards import QuantisedShards
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.serving_plugin.shard_receiver.recording import record
from megatron_rl.serving_plugin.shard_receiver.regions import tensors_of
from megatron_rl.serving_plugin.shard_receiver.transfer import (
    check_messages,
    read_messages,
    receive_messages,
)

SIZES = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 128, "num_attention_heads": 2}
SHARED = {"moe_intermediate_size": 256, "shared_expert_intermediate_size": 256}
CONFIGS = {
    "dense": QWEN3 | SIZES,
    # Two heads are a block, which half of the layouts cut.
    "small heads": QWEN3 | SIZES | {"head_dim": 64, "num_attention_heads": 4},
    # Half of it is three quarters of a block.
    "narrow layers": QWEN3 | SIZES | {"intermediate_size": 192},
    "mixture": QWEN3_MOE | SIZES | {"moe_intermediate_size": 256},
    "mixture with a shared expert": QWEN2_MOE | SIZES | SHARED,
    # The last blocks are smaller.
    "odd sizes": QWEN3 | SIZES | {"hidden_size": 200, "intermediate_size": 512},
    # Gate and up are one tensor, of which a rank has two boxes; neighbours are rotated.
    "interleaved": GLM4 | SIZES | {"num_attention_heads": 2},
}


def random_weights(spec, seed: int) -> dict[str, torch.Tensor]:
    """Weights whose blocks have scales of their own, one block of zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in tensor_shapes(spec):
        values = torch.randn(shape, generator=generator)
        if len(shape) == 2:
            values *= torch.rand(shape[0], 1, generator=generator).exp()
            values[:128, :128] *= seed % 2
        weights[name] = values if name in float32_tensors(spec) else values.bfloat16()
    return weights


class ServedPart(torch.nn.Module):
    """A part of every tensor that a server is sent, transposed or not: whole blocks of each."""

    def __init__(self, spec, quantised, chosen: random.Random) -> None:
        super().__init__()
        self.places = {}
        for tensor in served_tensors(spec, dtype="bfloat16", quantised=quantised):
            step = 128 if tensor.name in quantised else 1
            owner = tensor.name.removesuffix("_scale_inv")
            if tensor.name == owner:
                self.places[owner] = [_part(size, step, chosen) for size in tensor.shape]
                self.places[scale_name(owner)] = [
                    (first // 128, -(-end // 128)) for first, end in self.places[owner]
                ]
            sizes = [end - first for first, end in self.places[tensor.name]]
            parameter = torch.zeros(sizes, dtype=getattr(torch, tensor.dtype))
            if len(sizes) == 2 and chosen.random() < 0.5:
                parameter = parameter.t().contiguous()
            self.register_parameter(
                tensor.name.replace(".", "_"), torch.nn.Parameter(parameter, requires_grad=False)
            )

    def load_weights(self, weights) -> None:
        for name, tensor in weights:
            for dim, (first, end) in enumerate(self.places[name]):
                tensor = tensor.narrow(dim, first, end - first)
            parameter = getattr(self, name.replace(".", "_")).data
            parameter.copy_(tensor if parameter.shape == tensor.shape else tensor.t())


def _part(size: int, step: int, chosen: random.Random) -> tuple[int, int]:
    cuts = sorted(chosen.sample(range(-(-size // step) + 1), 2))
    return cuts[0] * step, min(size, cuts[1] * step)


class Rank:
    """Parameters of one learner rank, quantised ones by name of the tensor."""

    def __init__(self, spec, learner, parameters, quantised, rank: int) -> None:
        self.parameters = parameters[rank]
        self.blocks = QuantisedShards(
            spec,
            learner,
            quantised,
            self.parameters.__getitem__,
            rank=rank,
            dtype=torch.bfloat16,
        )

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.blocks.part(name) if name in self.blocks else self.parameters[name]


def move(spec, layout: Layout, dp: int, weights, server, *, replica: int, bucket: int) -> set[str]:
    """Move all shards that can be mapped to a server; return the tensors that cannot."""
    served = served_tensors(spec, dtype="bfloat16", quantised=quantised_tensors(spec))
    recording = record(server, [(t.name, t.dtype, list(t.shape)) for t in served])
    assert recording.unmapped == {}
    server_map = ServerMap.from_json(json.dumps(recording.copies))
    return move_by_map(
        spec, layout, dp, weights, server, server_map, replica=replica, bucket=bucket
    )


def move_by_map(
    spec,
    layout: Layout,
    dp: int,
    weights,
    server: torch.nn.Module,
    server_map: ServerMap,
    *,
    replica: int,
    bucket: int,
) -> set[str]:
    quantised = quantised_tensors(spec)
    learner, parameters = ranks_of(spec, layout, dp, weights)
    dtypes = {
        t.name: DType(name=t.dtype, itemsize=getattr(torch, t.dtype).itemsize)
        for t in served_tensors(spec, dtype="bfloat16", quantised=quantised)
    }
    planner = Planner(spec, learner, quantised)
    unmappable = planner.unmappable(server_map)
    assert all("blocks of 128 x 128" in reason for reason in unmappable.values())
    pieces = planner.pieces(server_map, replica=replica, without=frozenset(unmappable))
    messages = pack_messages(pieces, dtypes, direct_bytes=bucket // 4, bucket_bytes=bucket)
    senders = sorted({message.source for message in messages})
    told = read_messages(
        json.loads(messages_as_json(messages, dtypes, senders=senders)), num_sources=len(senders)
    )
    ranks = [Rank(spec, learner, parameters, quantised, r) for r in range(len(learner.places))]
    sent = Sent(
        {
            number: (senders.index(message.source), payload_of(message, ranks))
            for number, message in enumerate(messages)
        }
    )
    tensors = tensors_of(server)
    check_messages(told, tensors)
    receive_messages(told, tensors, sent, window=3, timeout_s=1, with_fingerprints=False)
    return set(unmappable)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.lengthy
@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(sorted(CONFIGS)), seed=st.integers(0, 10**6))
def test_shards_quantised_where_they_are_give_the_bits_of_whole_tensors(kind, seed):
    spec = model_spec(CONFIGS[kind] | {"num_hidden_layers": 4})
    chosen = random.Random(seed)
    layout, dp = chosen.choice(
        [(layout, dp) for layout in LAYOUTS for dp in (1, 2, 4) if legal(spec, layout, dp)]
    )
    weights = random_weights(spec, seed)
    server = ServedPart(spec, quantised_tensors(spec), chosen)
    bucket = chosen.choice([4096, 1 << 20])
    unmappable = move(spec, layout, dp, weights, server, replica=chosen.randrange(8), bucket=bucket)
    whole = dict(quantised_weights(weights.items(), quantised_tensors(spec)))
    for name, tensor in whole.items():
        for dim, (first, end) in enumerate(server.places[name]):
            tensor = tensor.narrow(dim, first, end - first)
        found = getattr(server, name.replace(".", "_")).data
        found = found if found.shape == tensor.shape else found.t()
        if name not in unmappable:
            assert bits(found) == bits(tensor), (name, layout, dp)
    assert_only_cut_blocks_are_left_out(kind, layout, unmappable)


def assert_only_cut_blocks_are_left_out(kind: str, layout: Layout, unmappable: set[str]) -> None:
    owners = {name.removesuffix("_scale_inv") for name in unmappable}
    parts = {name.split(".")[-2] for name in owners}
    cut = {
        "small heads": {"k_proj", "v_proj"},
        "interleaved": {"gate_up_proj"},
        "narrow layers": {"gate_proj", "up_proj", "down_proj"},
    }
    # A server need not have a part of each.
    assert parts <= (cut[kind] if kind in cut and layout.tp > 1 else set())


def test_tensors_are_quantised_once_for_all_servers_and_anew_after_an_update(monkeypatch):
    spec = model_spec(CONFIGS["dense"])
    names = quantised_tensors(spec)
    weights = random_weights(spec, 1)
    layout = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
    learner, parameters = ranks_of(spec, layout, 1, weights)
    counted = []

    def count(matrix):
        counted.append(matrix.shape)
        return quantise_blocks(matrix)

    monkeypatch.setattr(quantised_shards, "quantise_blocks", count)
    blocks = Rank(spec, learner, parameters, names, 0).blocks
    for _ in range(3):
        for name in sorted(names):
            blocks.part(name), blocks.part(scale_name(name))
    assert len(counted) == len(names)
    first = sorted(names)[0]
    before = bits(blocks.part(first))
    for parameter in parameters[0].values():
        parameter.neg_()
    assert bits(blocks.part(first)) == before
    blocks.forget()
    assert bits(blocks.part(first)) != before
    # What does not fit is forgotten, and made again to the same bits.
    monkeypatch.setattr(quantised_shards, "_KEPT_BYTES", 1)
    again = bits(blocks.part(first))
    blocks.part(sorted(names)[1])
    num_before = len(counted)
    assert bits(blocks.part(first)) == again
    assert len(counted) == num_before + 1
