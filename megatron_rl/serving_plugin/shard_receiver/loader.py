"""Loader that SGLang calls in every scheduler process, with an order of the learner's.

Nothing may leave it: SGLang ignores what it returns, and ends the server at what it raises.
Answers go to the learner's store under a token that only the order names.
"""

import datetime
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .fingerprints import fingerprint
from .groups import end_group, open_group
from .recording import record
from .regions import RefusedError, Region, tensors_of, view_of
from .transfer import Message, check_messages, read_messages, receive_messages

_LOG = logging.getLogger(__name__)
_CONNECT = datetime.timedelta(seconds=30)
_MOST_ERROR_CHARS = 2000


def receive(model: torch.nn.Module, named_tensors: list[tuple[str, Tensor]]) -> None:
    """Carry out an order: the first name, in JSON; the tensor beside it is not looked at.

    An order has ``op``, a key of ``_OPS``; ``token``, under which the answer is expected;
    ``store``, [host, port] of the learner's TCPStore; and what the op asks for.
    """
    started = time.perf_counter()
    try:
        order = json.loads(named_tensors[0][0])
        store = _state.store(order["store"])
    except Exception:
        _LOG.exception("an order of the learner's cannot be read, or its store not reached")
        return
    try:
        answer = _OPS[order["op"]](model, order, store)
    except Exception as error:
        _LOG.warning("order %s failed", order.get("op"), exc_info=True)
        kind = "refused" if isinstance(error, RefusedError) else "failed"
        answer = {kind: f"{type(error).__name__}: {error}"[:_MOST_ERROR_CHARS]}
    answer |= {"seconds": time.perf_counter() - started, "world_size": dist.get_world_size()}
    try:
        store.set(f"answer/{order['token']}/{dist.get_rank()}", json.dumps(answer))
    except Exception:
        _LOG.exception("the learner's store does not take the answer")


class _State:
    """What one rank keeps from one order to the next."""

    def __init__(self) -> None:
        self._store: tuple[tuple[str, int], dist.TCPStore] | None = None
        self.group: tuple[str, Any] | None = None
        self.messages: tuple[Message, ...] = ()
        self.digest = ""

    def store(self, address: list[Any]) -> dist.TCPStore:
        """Return the store of the learner that gives the order; that of an earlier one is left."""
        host, port = str(address[0]), int(address[1])
        if self._store is None or self._store[0] != (host, port):
            self._store = ((host, port), dist.TCPStore(host, port, timeout=_CONNECT))
        return self._store[1]

    def leave(self) -> None:
        """End the group, whatever state it is in."""
        group, self.group = self.group, None
        if group is not None:
            end_group(group[1])


_state = _State()

_Answer = dict[str, Any]


def _describe(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Record what the model's loader does with the tensors of a checkpoint."""
    recording = record(model, json.loads(_content(order["tensors"], store)))
    key = _keep(json.dumps(recording.copies), store)
    return {"copies": key, "unmapped": recording.unmapped}


def _join(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Join the group of the learner ranks that send to this server; check what they will send."""
    _state.leave()
    digest = order["messages"][dist.get_rank()]
    messages = read_messages(json.loads(_content(digest, store)), num_sources=order["num_sources"])
    check_messages(messages, tensors_of(model))
    group = open_group(
        order["backend"],
        dist.PrefixStore(order["group"], store),
        rank=order["num_sources"] + dist.get_rank(),
        size=order["num_sources"] + dist.get_world_size(),
        timeout_s=order["timeout_s"],
    )
    _state.group, _state.messages, _state.digest = (order["group"], group), messages, digest
    return {}


def _receive(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Receive this rank's shards of one version."""
    if _state.group is None or _state.group[0] != order["group"]:
        raise RefusedError(f"this rank is not in group {order['group']!r:.80}")
    digest = order["messages"][dist.get_rank()]
    if digest != _state.digest:
        raise RefusedError("the messages are not those that were agreed on")
    tensors = tensors_of(model)
    check_messages(_state.messages, tensors)
    try:
        seen = receive_messages(
            _state.messages,
            tensors,
            _state.group[1],
            window=order["window"],
            timeout_s=order["timeout_s"],
            with_fingerprints=order["with_fingerprints"],
        )
    except RuntimeError:
        _state.leave()
        raise
    _derive(model)
    if next(iter(tensors.values())).is_cuda:
        torch.cuda.current_stream().synchronize()
    return {"num_bytes": sum(m.num_bytes for m in _state.messages), "fingerprints": seen}


def _derive(model: torch.nn.Module) -> None:
    """Have a model compute what it keeps besides its weights, as its own loader does at the end."""
    derive = getattr(model, "post_load_weights", None)
    if callable(derive):
        derive()


def _fingerprints(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Return [fingerprint, that of what no message reaches] of every parameter."""
    regions = _regions()
    found = {}
    for name, tensor in tensors_of(model).items():
        rest = {name: tensor.clone(memory_format=torch.contiguous_format)}
        if tensor.is_contiguous():
            for region in regions.get(name, ()):
                view_of(region, rest).zero_()
        found[name] = [fingerprint(tensor), fingerprint(rest[name])]
    return {"fingerprints": found}


def _poison(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Put NaN wherever a shard will arrive; what no shard reaches is padding, and stays."""
    tensors = tensors_of(model)
    for regions in _regions().values():
        for region in regions:
            view_of(region, tensors).fill_(float("nan"))
    return {}


def _leave(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    _state.leave()
    return {}


def _regions() -> dict[str, list[Region]]:
    """Return the regions that this rank's messages fill, by parameter."""
    regions: dict[str, list[Region]] = {}
    for message in _state.messages:
        for piece in message.pieces:
            regions.setdefault(piece.parameter, []).append(piece)
    return regions


def _keep(text: str, store: dist.Store) -> str:
    """Put a text into the store under its digest, which is returned."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    store.set(f"content/{digest}", text)
    return digest


def _content(digest: str, store: dist.Store) -> str:
    """Return the text of a digest that an order names; anyone may write to the store."""
    text: bytes = store.get(f"content/{digest}")
    if hashlib.sha256(text).hexdigest() != digest:
        raise RefusedError("the store has another text than the order names")
    return text.decode()


_OPS: dict[str, Callable[[torch.nn.Module, Mapping[str, Any], dist.Store], _Answer]] = {
    "describe": _describe,
    "join": _join,
    "receive": _receive,
    "fingerprints": _fingerprints,
    "poison": _poison,
    "leave": _leave,
}
