"""Orders to the loader inside a server's ranks, and their answers.

An order goes over HTTP, with the server's key. What is long lies in a store of the learner's under
its digest, which the order names; answers come back there under a token that only the order names.
"""

import base64
import hashlib
import io
import json
import pickle
import secrets
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from megatron_rl.errors import WeightSyncError
from megatron_rl.registry import SHARD_LOADER
from megatron_rl.serving_plugin.shard_receiver.groups import COMES
from megatron_rl.weight_sync.admin import ServerAdmin, ServerRefusedError
from megatron_rl.weight_sync.group import address_seen_by

JOINS = "joins/{rank}"
"""Key under which a server rank says, below the name of the group, that it is about to join."""

Answer = dict[str, Any]

_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "describe": {"copies": str, "unmapped": dict},
    "fingerprints": {"fingerprints": dict},
    "relay": {"absent": str},
    "receive": {"num_bytes": int, "fingerprints": list, "not_passed_on": str},
}
"""What the answer to an order has, besides its time and the number of ranks."""


class LoaderOrders:
    """The learner's store, and orders through it; on rank 0."""

    def __init__(self) -> None:
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    @property
    def port(self) -> int:
        """Port of the store."""
        return self._store.port

    def keep(self, text: str) -> str:
        """Put a text into the store; return its digest."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        self._store.set(f"content/{digest}", text)
        return digest

    def content(self, digest: str) -> str:
        """Return what a server has put into the store under its digest."""
        return read_content(self._store, digest)

    def give(
        self, server: ServerAdmin, op: str, fields: Mapping[str, Any], *, timeout_s: float
    ) -> list[Answer]:
        """Give all ranks of a server an order; return their answers in order of the ranks.

        Raises:
            ServerRefusedError: a rank refused or failed, or its loader gave no answer that can be
                understood: the server is well, as far as is known.
            WeightSyncError: see ServerAdmin.
        """
        token = secrets.token_hex(16)
        host = address_seen_by(server)
        order = {"op": op, "token": token, "store": [host, self.port], **fields}
        server.run_loader(SHARD_LOADER, _payload(json.dumps(order)), timeout_s=timeout_s)
        first = self._answer(server, op, token, 0)
        answers = [first]
        for rank in range(1, first["world_size"]):
            answers.append(self._answer(server, op, token, rank))
        return answers

    def call_off(self, group: str, server: ServerAdmin) -> None:
        """Say in a server's name that it does not join: learner ranks wait for it no longer."""
        for rank in range(server.info.tp):
            self._store.set(f"{group}/{JOINS.format(rank=rank)}", "no")

    def call_off_pair(self, pair: str, server: ServerAdmin, side: int) -> None:
        """Say in a server's name that it does not meet the other of a pair."""
        for rank in range(server.info.tp):
            self._store.set(f"{pair}/{rank}/{COMES.format(side=side)}", "no")

    def _answer(self, server: ServerAdmin, op: str, token: str, rank: int) -> Answer:
        """Return the answer of a rank, which was there before SGLang's."""
        key, who = (
            f"answer/{token}/{rank}",
            f"the loader of server {server.info.name}, rank {rank},",
        )
        if not self._store.check([key]):
            raise ServerRefusedError(f"{who} has no answer to {op}")
        answer = _read_answer(self._store.get(key))
        self._store.delete_key(key)
        for kind in ("refused", "failed"):
            if kind in answer:
                raise ServerRefusedError(f"{who} {kind} {op}: {answer[kind]}")
        fields = {"seconds": int | float, "world_size": int, **_FIELDS.get(op, {})}
        wrong = [name for name, kind in fields.items() if not isinstance(answer.get(name), kind)]
        if wrong:
            raise ServerRefusedError(
                f"{who} answers {op} without a valid {wrong[0]}: its loader is of another release"
            )
        return answer


def _read_answer(text: bytes) -> Answer:
    """Return the fields of an answer; none where it is no answer."""
    try:
        answer = json.loads(text)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def read_content(store: dist.Store, digest: str) -> str:
    """Return the text of a digest.

    Raises:
        WeightSyncError: the store has another text under it, since anyone may write to it.
    """
    text: bytes = store.get(f"content/{digest}")
    if hashlib.sha256(text).hexdigest() != digest:
        raise WeightSyncError("a text in the store of shards is not that of its digest")
    return text.decode()


def _payload(order: str) -> str:
    """Return what SGLang's route takes: named tensors, of which the loader reads the first name.

    The route defines its own format, which is pickle's. It is written here and never read.
    """
    buffer = io.BytesIO()
    pickle.dump([(order, torch.zeros(1))], buffer)
    return base64.b64encode(buffer.getvalue()).decode()
