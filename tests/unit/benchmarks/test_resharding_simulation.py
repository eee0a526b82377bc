"""The simulation of resharding says what the planner says of every rank, and its sums add up."""

import json
import math
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.resharding.cases import layout_of, standard_cases
from benchmarks.resharding.cluster import Cluster, Traffic
from benchmarks.resharding.server_cuts import ServerCut, server_maps
from benchmarks.resharding.shares import (
    BUCKET_BYTES,
    DIRECT_BYTES,
    Shares,
    learner_map,
)
from benchmarks.resharding.switch import find_switch
from benchmarks.resharding.tensors import Tensors
from benchmarks.resharding.transports import (
    Fleet,
    grouped_broadcast,
    num_buckets,
    relay,
    sisters_of,
    spread,
    whole_broadcast,
)
from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.resharding import Planner, ServerMap, pack_messages
from megatron_rl.parallelism.serving_ranks import is_servable
from megatron_rl.serving_plugin.shard_receiver.recording import record
from tests.unit.conversion.family_configs import GLM4_MOE, QWEN3, QWEN3_MOE, UNSTACKED
from tests.unit.conversion.sharded_server import ServerLayout, ServerModel

SCRIPT = Path(__file__).parents[3] / "benchmarks/reshard_scale.py"
DENSE = Tensors.of(model_spec({**QWEN3, "num_hidden_layers": 4}))
MIXTURE = Tensors.of(model_spec({**GLM4_MOE, "num_hidden_layers": 4, "first_k_dense_replace": 1}))
SLOW_NIC = Cluster(message_s=0, nic=1e6, nvlink=1e9)


def fleet(num_ranks: int, num_servers: int, server_ranks: int, cluster=SLOW_NIC) -> Fleet:
    return Fleet(
        num_ranks=num_ranks,
        num_servers=num_servers,
        server_ranks=server_ranks,
        cluster=cluster,
    )


def recorded(spec, tensors: Tensors, layout: ServerLayout) -> ServerMap:
    names = [(n, tensors.dtypes[n].name, list(tensors.shapes[n])) for n in tensors.shapes]
    recording = record(ServerModel(spec, layout), names)
    assert recording.unmapped == {}
    return ServerMap.from_json(json.dumps(recording.copies))


def places(server_map: ServerMap, *, is_expert: bool) -> set:
    """Return where each part of a tensor goes, whatever parameters are called and typed."""
    return {
        (copy.tensor, copy.offset, copy.shape, copy.strides, copy.to_offset, copy.to_strides)
        for copy in server_map.copies
        if (".experts." in copy.tensor) is is_expert
    }


@pytest.mark.parametrize("config", UNSTACKED, ids=lambda config: config["model_type"])
@pytest.mark.parametrize(("tp", "ep"), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)])
def test_servers_copy_what_a_server_that_cuts_as_sglang_does_records(config, tp, ep):
    spec = model_spec({**config, "vocab_size": 101})
    if ep > 1 and spec.moe is None:
        pytest.skip("a dense model has no experts to share")
    tensors = Tensors.of(spec)
    maps = list(server_maps(tensors, ServerCut(tp=tp, ep=ep)))
    assert len(maps) == tp
    for rank, found in enumerate(maps):
        expected = recorded(spec, tensors, ServerLayout(tp=tp, rank=rank, ep=ep))
        assert places(found, is_expert=False) == places(expected, is_expert=False)
        # Neighbours share an expert in SGLang, every ep-th rank in the server of the tests.
        twin = rank // (tp // ep) + rank % (tp // ep) * ep
        expected = recorded(spec, tensors, ServerLayout(tp=tp, rank=twin, ep=ep))
        assert places(found, is_expert=True) == places(expected, is_expert=True)


def planned_for_all(tensors: Tensors, layout, cut: ServerCut, num_ranks: int, replica: int):
    """Plan with the product's own map of all learner ranks, without any symmetry."""
    planner = Planner(tensors.spec, learner_map(tensors, layout, num_ranks))
    for server_map in server_maps(tensors, cut):
        messages = pack_messages(
            planner.pieces(server_map, replica=replica),
            tensors.dtypes,
            direct_bytes=DIRECT_BYTES,
            bucket_bytes=BUCKET_BYTES,
        )
        sent: dict[int, tuple[int, int]] = {}
        for message in messages:
            num_bytes, count = sent.get(message.source, (0, 0))
            sent[message.source] = num_bytes + message.num_bytes, count + 1
        yield sent


LAYOUTS = [
    {"tp": tp, "pp": pp, "vpp": vpp, "cp": cp, "ep": ep, "etp": etp}
    for tp in (1, 2)
    for pp in (1, 2)
    for vpp in (1, 2)
    for cp in (1, 2)
    for ep in (1, 2, 4)
    for etp in (1, 2)
    if (vpp == 1 or pp > 1)
]


@pytest.mark.parametrize("seed", range(60))
def test_one_copy_planned_is_every_rank_planned(seed, monkeypatch):
    # Messages of the size of these tensors: some direct, some shared, some cut.
    for name in ("BUCKET_BYTES", "DIRECT_BYTES"):
        size = {"BUCKET_BYTES": 3000, "DIRECT_BYTES": 1500}[name]
        monkeypatch.setattr(f"benchmarks.resharding.shares.{name}", size)
        monkeypatch.setitem(globals(), name, size)
    chosen = random.Random(seed)
    tensors = chosen.choice([DENSE, MIXTURE])
    sizes = dict(chosen.choice(LAYOUTS))
    if tensors is DENSE:
        sizes |= {"ep": 1, "etp": 1}
    layout = layout_of(sizes)
    tp = chosen.choice([1, 2, 4])
    ep = chosen.choice([1, tp]) if tensors is MIXTURE else 1
    assert is_servable(tensors.spec, tp=tp, ep=ep)
    cut = ServerCut(tp=tp, ep=ep)
    per_stage = math.lcm(layout.tp * layout.cp, layout.ep * layout.etp) * chosen.choice([1, 2, 3])
    num_ranks = layout.pp * per_stage
    shares = Shares(tensors, layout, cut)
    for replica in {0, 1, chosen.randrange(20)}:
        expected = planned_for_all(tensors, layout, cut, num_ranks, replica)
        for rank, sent in enumerate(expected):
            found = shares.sent_to(rank, replica=replica, num_ranks=num_ranks)
            assert {s: (f.num_bytes, f.num_messages) for s, f in found.items()} == sent


CASES = [
    (DENSE, {"tp": 2, "pp": 2}, ServerCut(tp=2, ep=1), 8, 5),
    (DENSE, {}, ServerCut(tp=1, ep=1), 2, 4),
    (MIXTURE, {"tp": 2, "ep": 4, "pp": 2}, ServerCut(tp=4, ep=4), 16, 6),
    (MIXTURE, {"ep": 2, "etp": 2, "tp": 2}, ServerCut(tp=2, ep=1), 12, 7),
]
each_case = pytest.mark.parametrize(("tensors", "sizes", "cut", "num_ranks", "num_servers"), CASES)
SHARDS = {
    "spread": spread,
    "chain": lambda shares, fleet: relay(shares, fleet, fanout=1),
    "tree": lambda shares, fleet: relay(shares, fleet, fanout=2),
    "grouped": grouped_broadcast,
}


@each_case
@pytest.mark.parametrize("name", ["whole", *SHARDS])
def test_bytes_out_are_bytes_in(name, tensors, sizes, cut, num_ranks, num_servers):
    shares = Shares(tensors, layout_of(sizes), cut)
    net = fleet(num_ranks, num_servers, cut.tp)
    traffic = (SHARDS | {"whole": whole_broadcast})[name](shares, net).traffic
    gpus = range(num_ranks + num_servers * cut.tp)
    assert math.isclose(sum(map(traffic.bytes_out, gpus)), sum(map(traffic.bytes_into, gpus)))


@each_case
def test_a_broadcast_takes_the_whole_model_to_every_rank_and_leaves_none_on_the_way(
    tensors, sizes, cut, num_ranks, num_servers
):
    shares = Shares(tensors, layout_of(sizes), cut)
    net = fleet(num_ranks, num_servers, cut.tp)
    traffic = whole_broadcast(shares, net).traffic
    whole = sum(tensors.sizes())
    assert [traffic.bytes_into(gpu) for gpu in net.server_gpus()] == [whole] * len(
        net.server_gpus()
    )
    assert traffic.bytes_out(net.server_gpus()[-1]) == 0


@each_case
def test_every_rank_ends_up_with_its_shard_however_it_comes(
    tensors, sizes, cut, num_ranks, num_servers
):
    shares = Shares(tensors, layout_of(sizes), cut)
    net = fleet(num_ranks, num_servers, cut.tp)
    shards = []
    for server_map in server_maps(tensors, cut):
        sizes_of = [
            math.prod(c.shape) * tensors.dtypes[c.tensor].itemsize for c in server_map.copies
        ]
        shards.append(sum(sizes_of))
    for name, transport in SHARDS.items():
        traffic = transport(shares, net).traffic
        for server in range(num_servers):
            for rank, shard in enumerate(shards):
                # Pieces of a shared message begin at multiples of 16 bytes.
                received = traffic.bytes_into(net.gpu(server, rank))
                assert shard <= received <= 1.05 * shard, name


@each_case
@pytest.mark.parametrize("name", list(SHARDS))
def test_no_transport_is_faster_than_the_links_of_one_shard(
    name, tensors, sizes, cut, num_ranks, num_servers
):
    shares = Shares(tensors, layout_of(sizes), cut)
    far = Cluster(gpus_per_node=1, nic=1e6, message_s=1e-4)
    net = fleet(num_ranks, num_servers, cut.tp, far)
    outcome = SHARDS[name](shares, net)
    traffic = outcome.traffic
    into = max(traffic.bytes_into(gpu) for gpu in net.server_gpus()) / far.nic
    out = max(traffic.bytes_out(rank) for rank in range(num_ranks)) / far.nic
    assert outcome.seconds >= max(into, out)
    # All learner ranks together have to give every part once at least, all servers once each.
    whole = sum(tensors.sizes())
    assert outcome.seconds >= whole / num_ranks / far.nic


def test_two_copies_and_four_servers_by_hand():
    # One rank has the whole model, so does a server rank: W bytes each.
    shares = Shares(DENSE, layout_of({}), ServerCut(tp=1, ep=1))
    whole = sum(DENSE.sizes())
    far = Cluster(gpus_per_node=1, nic=1e6, message_s=0)
    net = fleet(2, 4, 1, far)
    # Servers 0 and 2 draw from copy 0, servers 1 and 3 from copy 1: 2 W out of each.
    outcome = spread(shares, net)
    assert [outcome.traffic.bytes_out(rank) for rank in (0, 1)] == [2 * whole, 2 * whole]
    assert outcome.seconds == pytest.approx(2 * whole / 1e6)
    # In chains 0 -> 1 and 2 -> 3 every sender sends W; the second bucket-full waits for the first.
    chains = relay(shares, net, fanout=1)
    assert [list(run) for run in sisters_of(net, 2)] == [[0, 1], [2, 3]]
    assert [chains.traffic.bytes_out(gpu) for gpu in range(6)] == [whole] * 3 + [0, whole, 0]
    assert chains.seconds == pytest.approx(whole / 1e6 + min(whole, BUCKET_BYTES) / 1e6)
    # The broadcast of the only source, copy 0, goes through all four servers.
    grouped = grouped_broadcast(shares, net)
    assert [grouped.traffic.bytes_out(gpu) for gpu in range(6)] == [whole, 0, *[whole] * 3, 0]


def test_a_gather_of_two_stages_by_hand():
    # Stage 0 has the embedding and two layers, stage 1 two layers, the last norm and the output.
    shares = Shares(DENSE, layout_of({"pp": 2}), ServerCut(tp=1, ep=1))
    traffic = whole_broadcast(shares, fleet(2, 1, 1)).traffic
    whole = sum(DENSE.sizes())
    last_norm = 64 * 2
    # The stages are equal but for that norm, and each broadcasts its own to the other.
    assert traffic.bytes_into(0) == (whole + last_norm) / 2
    assert traffic.bytes_into(1) == (whole - last_norm) / 2
    # Rank 0 also has the broadcast to the server.
    assert traffic.bytes_out(0) == (whole - last_norm) / 2 + whole


def test_a_gather_of_two_tensor_parallel_ranks_by_hand():
    # Each has half of everything, norms included as they travel, and sends it to the other.
    shares = Shares(DENSE, layout_of({"tp": 2}), ServerCut(tp=1, ep=1))
    traffic = whole_broadcast(shares, fleet(2, 1, 1)).traffic
    assert traffic.bytes_into(0) == traffic.bytes_into(1) == sum(DENSE.sizes()) / 2


def test_each_link_has_its_own_speed_and_messages_their_latency():
    traffic = Traffic(Cluster(gpus_per_node=2, nvlink=100, nic=10, message_s=0.5))
    traffic.send(0, 1, 200, 1)  # within a node: 2 s and half a second
    assert traffic.seconds() == 2.5
    traffic.send(0, 2, 30, 2)  # another link at the same time: 3 s and a second
    assert traffic.seconds() == 4
    traffic.send(1, 2, 10, 1)  # the same NIC of GPU 2: 4 s and 1.5
    assert traffic.seconds() == 5.5
    assert traffic.bytes_out(0) == 230
    assert traffic.bytes_into(2) == 40
    assert traffic.num_messages == 4


def test_buckets_are_those_of_the_publisher():
    mib = 1 << 20
    assert num_buckets([64 * mib, 64 * mib, 1, 300 * mib, 1]) == 4
    assert num_buckets([300 * mib]) == 1


def test_passing_on_pays_once_a_learner_rank_gives_more_than_a_server_rank_takes():
    # Tensor-parallel 2 to servers of one rank, so that a learner rank gives each half of what a
    # server rank takes: with two servers per copy they are equal, with three passing on is faster.
    shares = Shares(DENSE, layout_of({"tp": 2}), ServerCut(tp=1, ep=1))

    def find(num_ranks: int, chunk_bytes: int):
        cluster = Cluster(gpus_per_node=1, nic=1e6, message_s=0, hop_s=0, chunk_bytes=chunk_bytes)
        return find_switch(
            shares, grouped_broadcast, num_ranks=num_ranks, cluster=cluster, most_servers=20
        )

    found = find(2, 1)
    assert found.bound == pytest.approx(2, rel=0.02)
    assert (found.num_copies, found.num_servers) == (1, 3)
    # With two copies, five servers: one of them serves three.
    found = find(4, 1)
    assert (found.num_copies, found.num_servers) == (2, 5)
    # If all of a shard has to arrive before any of it is passed on, it never does.
    assert find(2, sum(DENSE.sizes())).num_servers is None


def test_the_cases_are_the_models_that_they_say():
    # Parameters in billions: 2 bytes each, selection biases 4.
    sizes = [sum(Tensors.of(case.spec).sizes()) / 2e9 for case in standard_cases()]
    assert sizes == pytest.approx([23.6, 30.5, 676.8], abs=0.05)
    assert [case.fewest_ranks for case in standard_cases()] == [4, 8, 256]


def test_a_mixture_counts_copies_of_its_experts():
    shares = Shares(MIXTURE, layout_of({"tp": 2, "ep": 4}), ServerCut(tp=1, ep=1))
    assert shares.num_copies(16) == 4  # and 8 of the rest
    shares = Shares(DENSE, layout_of({"tp": 2}), ServerCut(tp=1, ep=1))
    assert shares.num_copies(16) == 8


@pytest.mark.lengthy
def test_a_model_of_ones_own_is_simulated(tmp_path):
    config = {**QWEN3_MOE, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = [sys.executable, str(SCRIPT), "--quick", "--output", str(tmp_path)]
    command += ["--model", str(tmp_path), "--learner", "tp=2,ep=2", "--server", "tp=2,ep=2"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "reshard_scale_0.json").read_text())["rows"]
    assert {row["GPUs"] for row in rows} == {64, 512, 4096}
    for row in rows:
        is_whole = row["transport"] == "whole broadcast"
        assert row["in % of model"] == 100 if is_whole else 50 < row["in % of model"] < 60
    (crossing,) = json.loads((tmp_path / "reshard_scale_switch.json").read_text())["rows"]
    assert crossing["learner"] == 8  # a whole node
    assert not (tmp_path / "reshard_scale_published.json").exists()


@pytest.mark.slow
def test_the_large_model_takes_less_than_a_minute_of_one_core(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, str(SCRIPT), "--quick", "--generators-per-learner", "3"]
    command += ["--output", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert result.returncode == 0, result.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60
    rows = json.loads((tmp_path / "reshard_scale_2.json").read_text())["rows"]
    seconds = {row["transport"]: row["seconds"] for row in rows if row["GPUs"] == 4096}
    assert seconds["shards, chain"] < seconds["shards, spread"] < seconds["whole broadcast"]
