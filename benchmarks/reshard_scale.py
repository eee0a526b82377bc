"""Resharding at scale: what new weights cost on their way to the servers, by arithmetic.

    python benchmarks/reshard_scale.py [--quick] [--generators-per-learner 1]
        [--model FOLDER --learner tp=8,pp=4,ep=64 --server tp=64,ep=64]

Nothing is sent: the plan is the product's own, of real shapes, and time is that of the busiest end
of a link, bytes over bandwidth and a latency for each message. Servers' own work, such as the copy
out of a buffer, orders over HTTP and congestion between switches are left out, so what is measured
will be slower. Compared, from 8 to 4,096 GPUs, weights in bfloat16:

whole broadcast: tensors gathered on rank 0, and broadcast to every server rank (today).
shards, spread: each server rank gets its shard; servers take turns with the learner's copies.
shards, chain and tree: each copy serves one server, which passes shards on to its sisters.
shards, grouped: each source broadcasts to the same rank of all servers.

The second table says from how many servers per copy of the learner passing on is faster than
sending to each. The third, not with --quick, has figures that others published: measured by them,
on their machines.
"""

import argparse
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resharding.cases import Case, layout_of, published, standard_cases
from resharding.cluster import Cluster
from resharding.server_cuts import ServerCut
from resharding.shares import Shares
from resharding.switch import Switch, find_switch
from resharding.tensors import Tensors
from resharding.transports import (
    Fleet,
    Outcome,
    grouped_broadcast,
    relay,
    spread,
    whole_broadcast,
)
from table import parser_of, show_and_keep

from megatron_rl.conversion.families.reading import read_model_spec

SIZES = tuple(2**power for power in range(3, 13))
QUICK_SIZES = (64, 512, 4096)
MOST_SERVERS_PER_COPY = 32

Transport = Callable[[Shares, Fleet], Outcome]
SISTERS: dict[str, Transport] = {
    "shards, chain": functools.partial(relay, fanout=1),
    "shards, tree": functools.partial(relay, fanout=2),
    "shards, grouped": grouped_broadcast,
}
TRANSPORTS: dict[str, Transport] = {
    "whole broadcast": whole_broadcast,
    "shards, spread": spread,
    **SISTERS,
}


def simulate(
    case: Case, shares: Shares, cluster: Cluster, sizes: Sequence[int], generators: float
) -> list[dict[str, Any]]:
    """Return the rows of one model, for as many GPUs as hold it."""
    rows = []
    whole = sum(shares.tensors.sizes())
    for size in sizes:
        num_ranks = int(size / (1 + generators)) // case.fewest_ranks * case.fewest_ranks
        num_servers = (size - num_ranks) // case.cut.tp
        if not num_ranks or not num_servers:
            continue
        fleet = Fleet(
            num_ranks=num_ranks,
            num_servers=num_servers,
            server_ranks=case.cut.tp,
            cluster=cluster,
        )
        for name, transport in TRANSPORTS.items():
            outcome = transport(shares, fleet)
            traffic = outcome.traffic
            shard = max(traffic.bytes_into(gpu) for gpu in fleet.server_gpus())
            rows.append(
                {
                    "GPUs": size,
                    "learner": num_ranks,
                    "servers": num_servers,
                    "transport": name,
                    "out GB": max(map(traffic.bytes_out, range(num_ranks))) / 1e9,
                    "in GB": shard / 1e9,
                    "in % of model": 100 * shard / whole,
                    "messages": traffic.num_messages,
                    "seconds": outcome.seconds,
                }
            )
    return rows


def switches(
    case: Case, shares: Shares, cluster: Cluster, factors: Sequence[int]
) -> list[dict[str, Any]]:
    """Return from how many servers per copy each way of passing on pays.

    Learners are whole nodes: a server beside its learner is served over NVLink.
    """
    rows = []
    for factor in factors:
        num_ranks = factor * math.lcm(case.fewest_ranks, cluster.gpus_per_node)
        found = {
            name: find_switch(
                shares,
                transport,
                num_ranks=num_ranks,
                cluster=cluster,
                most_servers=MOST_SERVERS_PER_COPY * shares.num_copies(num_ranks),
            )
            for name, transport in SISTERS.items()
        }
        any_of = next(iter(found.values()))
        rows.append(
            {
                "model": case.name,
                "learner": num_ranks,
                "copies": any_of.num_copies,
                "in GB": any_of.shard_bytes / 1e9,
                "out GB": any_of.part_bytes / 1e9,
                "in / out": any_of.bound,
                **{name: _per_copy(switch) for name, switch in found.items()},
            }
        )
    return rows


def beside_published(cluster: Cluster) -> list[dict[str, Any]]:
    """Return published figures, and what arithmetic gives for the same layouts."""
    rows = []
    for figure in published():
        ours: float | str = "not simulated"
        if figure.case is not None:
            case = figure.case
            fleet = Fleet(
                num_ranks=figure.num_ranks,
                num_servers=figure.num_servers,
                server_ranks=case.cut.tp,
                cluster=cluster,
            )
            shares = Shares(Tensors.of(case.spec), case.layout, case.cut)
            ours = spread(shares, fleet).seconds
        rows.append(
            {
                "published by": figure.source,
                "model": figure.model,
                "layouts": figure.layouts,
                "their seconds": figure.seconds,
                "shards, spread: arithmetic": ours,
            }
        )
    return rows


def _per_copy(switch: Switch) -> float | str:
    if switch.num_servers is None:
        return f"not up to {MOST_SERVERS_PER_COPY}"
    return switch.num_servers / switch.num_copies


def _sizes(text: str) -> dict[str, int]:
    try:
        return {name: int(size) for name, size in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give sizes as in tp=8,pp=4,ep=64") from None


def _options() -> argparse.Namespace:
    parser = parser_of(__doc__ or "")
    add = parser.add_argument
    add("--model", type=Path, help="folder with a config.json, in place of the three models")
    add("--learner", type=_sizes, default={}, help="tp, pp, vpp, cp, ep, etp of --model; 1 each")
    add("--server", type=_sizes, default={}, help="tp and ep of a server of --model; 1 each")
    add("--gpus", type=int, nargs="+", help="numbers of GPUs in place of powers of 2")
    add("--generators-per-learner", type=float, default=1, help="GPUs of servers for each learner")
    add("--gpus-per-node", type=int, default=8)
    add("--nvlink", type=float, default=450, help="GB/s of a GPU in one direction; default 450")
    add("--nic", type=float, default=50, help="GB/s of a GPU's NIC in one direction; default 50")
    add("--message-us", type=float, default=20, help="latency of a message; default 20 (assumed)")
    return parser.parse_args()


def _cases(options: argparse.Namespace) -> list[Case]:
    if options.model is None:
        return standard_cases()
    return [
        Case(
            name=options.model.name,
            spec=read_model_spec(options.model),
            layout=layout_of(options.learner),
            cut=ServerCut(tp=options.server.get("tp", 1), ep=options.server.get("ep", 1)),
        )
    ]


def main() -> None:
    """Simulate every model, then find where transports cross."""
    options = _options()
    cluster = Cluster(
        gpus_per_node=options.gpus_per_node,
        nvlink=options.nvlink * 1e9,
        nic=options.nic * 1e9,
        message_s=options.message_us * 1e-6,
    )
    sizes = options.gpus or (QUICK_SIZES if options.quick else SIZES)
    crossings = []
    for number, case in enumerate(_cases(options)):
        shares = Shares(Tensors.of(case.spec), case.layout, case.cut)
        rows = simulate(case, shares, cluster, sizes, options.generators_per_learner)
        if rows:
            title = f"{case.name}, {sum(shares.tensors.sizes()) / 1e9:,.0f} GB: {case.describe()}"
            show_and_keep(f"reshard_scale_{number}", title, rows, output=options.output)
        else:
            print(f"{case.name}: no size of {sizes} holds {case.fewest_ranks} learner ranks")
        crossings += switches(case, shares, cluster, (1,) if options.quick else (1, 4))
    title = "From how many servers per copy passing on is faster; in and out are of one server"
    show_and_keep("reshard_scale_switch", title, crossings, output=options.output)
    if options.model is None and not options.quick:
        title = "Published by others, on their machines; not measured by us"
        rows = beside_published(cluster)
        show_and_keep("reshard_scale_published", title, rows, output=options.output)


if __name__ == "__main__":
    main()
