"""Transfers of the last publication, by server: how its weights came, how many bytes, how long."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from megatron_rl.run_dir import RunDir, write_json


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerTransfer:
    """How one server got its weights."""

    transport: Literal["shards", "broadcast"]
    rank_bytes: int
    """Bytes that its busiest rank received."""
    seconds: float
    """Time of that; 0 where servers took turns in one broadcast."""
    reason: str
    """Why not by shards; empty where they were, or are to be from the next publication on."""
    feeder: str = ""
    """Server that passed the shards on to it; empty where the learner sent them."""


def record_transfers(
    run_dir: RunDir, version: int, transfers: Mapping[str, ServerTransfer]
) -> None:
    """Write what the publication of ``version`` did; the learner is the only writer."""
    servers = {name: dataclasses.asdict(transfer) for name, transfer in transfers.items()}
    write_json(run_dir.transfers, {"version": version, "servers": servers})


def read_transfers(run_dir: RunDir) -> dict[str, ServerTransfer]:
    """Return the transfers of the last publication by server; empty before the first."""
    try:
        record = json.loads(run_dir.transfers.read_text())
    except FileNotFoundError:
        return {}
    return {name: ServerTransfer(**fields) for name, fields in record["servers"].items()}
