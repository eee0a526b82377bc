"""A server rank with a learner's real store, for tests of the orders that it is given."""

import contextlib
import datetime
import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_rl.serving_plugin.shard_receiver import loader, receive
from megatron_rl.serving_plugin.shard_receiver.fingerprints import fingerprint
from megatron_rl.serving_plugin.shard_receiver.groups import open_group
from megatron_rl.serving_plugin.shard_receiver.regions import tensors_of

TIMEOUT = datetime.timedelta(seconds=30)


class OrderedRank:
    """A model that is given orders as SGLang gives them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._source_store = dist.TCPStore("127.0.0.1", self.store.port, timeout=TIMEOUT)

    def keep(self, value: Any) -> str:
        """Put a value into the store as JSON; return its digest."""
        return self.keep_text(json.dumps(value))

    def keep_text(self, text: str) -> str:
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.store.set(f"content/{digest}", text)
        self.store.check([f"content/{digest}"])  # it has been set once this is answered
        return digest

    def order(self, op: str, **fields: Any) -> dict[str, Any]:
        """Return an order with a token of its own."""
        address = ["127.0.0.1", self.store.port]
        return {"op": op, "token": secrets.token_hex(16), "store": address, **fields}

    def give(self, order: Any) -> dict[str, Any] | None:
        """Give an order; return its answer, None where there is none."""
        receive(self.model, [(json.dumps(order), torch.zeros(1))])
        token = order.get("token") if isinstance(order, dict) else None
        key = f"answer/{token}/0"
        if not self.store.check([key]):
            return None
        answer: dict[str, Any] = json.loads(self.store.get(key))
        self.store.delete_key(key)
        return answer

    def do(self, op: str, **fields: Any) -> dict[str, Any]:
        """Give an order that must be carried out."""
        answer = self.give(self.order(op, **fields))
        assert answer is not None and not answer.keys() & {"refused", "failed"}, answer
        return answer

    def seen(self) -> dict[str, int]:
        """Return the fingerprints of all parameters."""
        return {name: fingerprint(tensor) for name, tensor in tensors_of(self.model).items()}

    def join(self, messages: Any, *, group: str) -> list[Any]:
        """Have the rank and one source join a group; return that of the source, alone in a list."""
        sources: list[Any] = []

        def come() -> None:
            store = dist.PrefixStore(group, self._source_store)
            sources.append(open_group("gloo", store, rank=0, size=2, timeout_s=20))

        thread = threading.Thread(target=come)
        thread.start()
        self.do("join", **self.joining(messages, group=group))
        thread.join()
        return sources

    def joining(self, messages: Any, *, group: str, num_sources: int = 1) -> dict[str, Any]:
        """Return the fields of an order to join."""
        return {
            "group": group,
            "messages": [self.keep(messages)],
            "num_sources": num_sources,
            "backend": "gloo",
            "timeout_s": 20,
        }

    def receiving(self, messages: Any, *, group: str) -> dict[str, Any]:
        """Return the fields of an order to receive."""
        return {
            "group": group,
            "messages": [self.keep(messages)],
            "window": 2,
            "timeout_s": 20,
            "with_fingerprints": True,
        }


@contextlib.contextmanager
def server_of_one_rank() -> Iterator[None]:
    """Have the default group that SGLang's processes have; and a loader that has kept nothing."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        loader._state.__init__()
        dist.destroy_process_group()


def bytes_of(*tensors: Tensor) -> Tensor:
    """Return the bytes of tensors as they share a message, each at a multiple of 16."""
    parts = []
    for tensor in tensors:
        data = tensor.contiguous().view(-1).view(torch.uint8)
        parts += [data, data.new_zeros(-data.numel() % 16)]
    return torch.cat(parts)
