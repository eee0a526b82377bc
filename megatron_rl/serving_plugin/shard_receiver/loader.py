"""Loader that SGLang calls in every scheduler process, with an order of the learner's.

Nothing may leave it: SGLang ignores what it returns, and ends the server at what it raises.
Answers go to the learner's store under a token that only the order names.
"""

import hashlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .fingerprints import fingerprint
from .groups import AbsentError, meet, open_group
from .orders import (
    flag,
    own_digest,
    read_address,
    read_content,
    seconds,
    text,
    whole_number,
)
from .recording import record
from .regions import RefusedError, Region, is_dense, tensors_of, view_of
from .sister import FEEDER_RANK, SISTER_RANK, Sister
from .state import CONNECT, Feed, State
from .transfer import check_messages, read_messages, receive_messages

_LOG = logging.getLogger(__name__)
_MOST_ERROR_CHARS = 2000
_MOST_SOURCES = 2**16
_MOST_UNDER_WAY = 64


def receive(model: torch.nn.Module, named_tensors: list[tuple[str, Tensor]]) -> None:
    """Carry out an order: the first name, in JSON; the tensor beside it is not looked at.

    An order has ``op``, a key of ``_OPS``; ``token``, under which the answer is expected;
    ``store``, [host, port] of the learner's TCPStore; and what the op asks for.
    """
    started = time.perf_counter()
    try:
        order = json.loads(named_tensors[0][0])
        store = _state.store(read_address(order["store"]))
        token = text(order, "token")
        _state.use(token)
        key = f"answer/{token}/{dist.get_rank()}"
    except Exception:
        _LOG.exception("an order of the learner's cannot be read, or its store not reached")
        return
    answer = _answer(model, order, store)
    try:
        answer |= {"seconds": time.perf_counter() - started, "world_size": dist.get_world_size()}
        store.set(key, json.dumps(answer))
        # A store does not acknowledge what it is sent: only an answer of its own, to what comes
        # after, shows that whoever asks on another connection finds this one.
        store.check([key])
    except Exception:
        _LOG.exception("the learner's store does not take the answer")


def _answer(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> dict[str, Any]:
    """Carry out an order; return its answer, or that it was refused or failed, and why."""
    try:
        op = text(order, "op")
        if op not in _OPS:
            raise RefusedError(f"no order is named {op!r}")
        return _OPS[op](model, order, store)
    except Exception as error:
        # As text: a record that kept the exception would keep its frames, with them what was under
        # way, and with that open the connections on which others wait.
        _LOG.warning("an order of the learner's failed: %s", traceback.format_exc())
        kind = "refused" if isinstance(error, RefusedError) else "failed"
        return {kind: f"{type(error).__name__}: {error}"[:_MOST_ERROR_CHARS]}


_state = State()

_Answer = dict[str, Any]


def _describe(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Record what the model's loader does with the tensors of a checkpoint."""
    recording = record(model, read_content(text(order, "tensors"), store))
    key = _keep(json.dumps(recording.copies), store)
    return {"copies": key, "unmapped": recording.unmapped}


def _join(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Join the group of the learner ranks that send to this server; check what they will send."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    num_sources = whole_number(order, "num_sources", least=0, most=_MOST_SOURCES)
    name, backend = text(order, "group"), _backend(order)
    timeout_s = seconds(order, "timeout_s")
    digest = own_digest(order, rank=rank, world_size=world_size)
    messages = read_messages(read_content(digest, store), num_sources=num_sources)
    check_messages(messages, tensors_of(model))
    _state.leave()
    _state.messages, _state.digest = (), ""
    meeting = dist.PrefixStore(name, store)
    # Before this, learner ranks would wait for a rank that refuses.
    meeting.set(f"joins/{rank}", "yes")
    try:
        group = open_group(
            backend,
            meeting,
            rank=num_sources + rank,
            size=num_sources + world_size,
            timeout_s=timeout_s,
        )
    finally:
        store.set_timeout(CONNECT)  # a group sets its own
    _state.group, _state.messages, _state.digest = (name, group), messages, digest
    return {}


def _relay(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Meet the server that passes shards on to this one, and the one that this one passes them to.

    An empty name stands for none. A group that this rank is in already is kept.
    """
    rank, backend, timeout_s = dist.get_rank(), _backend(order), seconds(order, "timeout_s")
    feeder, sister = (
        text(order, "feeder", is_optional=True),
        text(order, "sister", is_optional=True),
    )
    if _state.feeder is not None and _state.feeder.name != feeder:
        _state.leave_feeder()
    if _state.sister is not None and _state.sister.name != sister:
        _state.leave_sister()
    try:
        if feeder and _state.feeder is None:
            digest = own_digest(order, rank=rank, world_size=dist.get_world_size())
            messages = read_messages(read_content(digest, store), num_sources=1)
            check_messages(messages, tensors_of(model))
            group = meet(store, feeder, rank, SISTER_RANK, backend=backend, timeout_s=timeout_s)
            _state.feeder = Feed(feeder, group, messages, digest)
        if sister and _state.sister is None:
            group = meet(store, sister, rank, FEEDER_RANK, backend=backend, timeout_s=timeout_s)
            _state.sister = Sister(sister, group)
    except AbsentError as error:
        return {"absent": str(error)}
    finally:
        store.set_timeout(CONNECT)  # a group sets its own
    return {"absent": ""}


def _backend(order: Mapping[str, Any]) -> str:
    backend = text(order, "backend")
    if backend not in ("gloo", "nccl"):
        raise RefusedError(f"no backend of a group of shards: {backend!r}")
    return backend


def _receive(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Receive this rank's shards of one version, and pass them on where that is asked for."""
    feed = _state.feed(text(order, "group"))
    digest = own_digest(order, rank=dist.get_rank(), world_size=dist.get_world_size())
    if digest != feed.digest:
        raise RefusedError("the messages are not those that were agreed on")
    window = whole_number(order, "window", least=1, most=_MOST_UNDER_WAY)
    timeout_s = seconds(order, "timeout_s")
    with_fingerprints = flag(order, "with_fingerprints")
    sister = _sister(order)
    tensors = tensors_of(model)
    check_messages(feed.messages, tensors)
    try:
        seen = receive_messages(
            feed.messages,
            tensors,
            feed.group,
            window=window,
            timeout_s=timeout_s,
            with_fingerprints=with_fingerprints,
            sister=sister,
        )
        _derive(model)
        if next(iter(tensors.values())).is_cuda:
            torch.cuda.current_stream().synchronize()
    except Exception:
        is_direct = _state.group is not None and _state.group[0] == feed.name
        _state.leave() if is_direct else _state.leave_feeder()
        raise
    return {
        "num_bytes": sum(message.num_bytes for message in feed.messages),
        "fingerprints": seen,
        "not_passed_on": "" if sister is None else sister.error,
    }


def _sister(order: Mapping[str, Any]) -> Sister | None:
    """Return the rank to pass shards on to, if any."""
    name = text(order, "sister", is_optional=True)
    if not name:
        return None
    if _state.sister is None or _state.sister.name != name:
        raise RefusedError(f"this rank passes nothing on in group {name!r}")
    _state.sister.begin(patience_s=seconds(order, "patience_s"))
    return _state.sister


def _derive(model: torch.nn.Module) -> None:
    """Have a model compute what it keeps besides its weights, as its own loader does at the end."""
    derive = getattr(model, "post_load_weights", None)
    if callable(derive):
        derive()


def _fingerprints(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Return [fingerprint, that of what no message reaches] of every parameter.

    The second is 0 where no message reaches zeros only: padding that loaders clear.
    """
    tensors = tensors_of(model)
    regions = _regions(tensors)
    found = {}
    for name, tensor in tensors.items():
        # One that is dense keeps its strides.
        rest = {name: tensor.clone()}
        if is_dense(tensor):
            for region in regions.get(name, ()):
                view_of(region, rest).zero_()
        has_rest = bool(rest[name].contiguous().view(-1).view(torch.uint8).any())
        found[name] = [fingerprint(tensor), fingerprint(rest[name]) if has_rest else 0]
    return {"fingerprints": found}


def _poison(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    """Put NaN wherever a shard will arrive; what no shard reaches is padding, and stays."""
    tensors = tensors_of(model)
    for regions in _regions(tensors).values():
        for region in regions:
            target = view_of(region, tensors)
            # Other types have no NaN: all of their bits.
            target.fill_(float("nan")) if target.is_floating_point() else target.fill_(-1)
    return {}


def _leave(model: torch.nn.Module, order: Mapping[str, Any], store: dist.Store) -> _Answer:
    _state.leave()
    _state.leave_feeder()
    return {}


def _regions(tensors: Mapping[str, Tensor]) -> dict[str, list[Region]]:
    """Return the regions that this rank's messages fill, by parameter."""
    check_messages(_state.messages, tensors)
    regions: dict[str, list[Region]] = {}
    for message in _state.messages:
        for piece in message.pieces:
            regions.setdefault(piece.parameter, []).append(piece)
    return regions


def _keep(content: str, store: dist.Store) -> str:
    """Put a text into the store under its digest, which is returned."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    store.set(f"content/{digest}", content)
    return digest


_OPS: dict[str, Callable[[torch.nn.Module, Mapping[str, Any], dist.Store], _Answer]] = {
    "describe": _describe,
    "join": _join,
    "relay": _relay,
    "receive": _receive,
    "fingerprints": _fingerprints,
    "poison": _poison,
    "leave": _leave,
}
