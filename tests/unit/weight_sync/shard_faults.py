"""Faults that a server of shards is told to have: where, of which kind, how often."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist

from megatron_rl.serving_plugin.shard_receiver import loader
from megatron_rl.serving_plugin.shard_receiver.orders import read_address
from megatron_rl.serving_plugin.shard_receiver.regions import tensors_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault of one server rank.

    Anywhere: ``die``, ``stop`` (SIGSTOP), ``hang`` (until it is released), ``slow``.
    At a route: ``refuse`` (500), ``no_success``, ``close``.
    At an op of the loader: ``tamper`` (the order is spoilt, so that the plug-in refuses it),
    ``mute`` (the loader is not run), ``garble`` (its answer is), ``bad_map`` (that is none),
    ``wrong_map``, ``corrupt`` (what has arrived).
    At a message: ``flip`` (a bit), ``raise``.
    """

    place: str
    """A route, an op of the loader, ``message N``, or ``message`` for any."""
    kind: str
    after: bool = False
    """Once the order has been carried out, instead of before."""
    rank: int = 0
    seconds: float = 0.0
    """How long ``slow`` takes."""
    times: int = 1
    """How often it happens; -1 for always."""
    skip: int = 0
    """How often it does not before."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Injector:
    """What one server rank does wrong."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self._is_released = False
        self.num_had = 0
        self._fault: Fault | None = None
        self._times = self._skip = 0
        self._lock = threading.Lock()

    def arm(self, fault: Fault | None) -> None:
        with self._lock:
            self._fault = fault if fault is not None and fault.rank == self.rank else None
            self._times, self._skip = (fault.times, fault.skip) if fault is not None else (0, 0)
            self._is_released = False

    def release(self) -> None:
        """End the fault, and with it what hangs."""
        self._fault, self._is_released = None, True

    def take(self, place: str, *, after: bool = False) -> Fault | None:
        """Return the fault to have here, if any; those of anywhere are over by then."""
        with self._lock:
            fault = self._fault
            if fault is None or fault.place != place or fault.after != after or not self._times:
                return None
            if self._skip:
                self._skip -= 1
                return None
            self._times -= 1
            self.num_had += 1
        self._have(fault)
        return fault

    def _have(self, fault: Fault) -> None:
        if fault.kind == "die":
            os._exit(9)
        elif fault.kind == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.kind == "hang":
            while not self._is_released:
                time.sleep(0.01)
        elif fault.kind == "slow":
            time.sleep(fault.seconds)


def run_loader(injector: Injector, model: torch.nn.Module, text: str) -> None:
    """Run the plug-in with an order, as SGLang does, and with what is to go wrong."""
    order = json.loads(text)
    op = order["op"]
    fault = injector.take(op)
    kind = fault.kind if fault is not None else ""
    if kind == "mute":
        return
    if kind == "tamper":
        order |= {"num_sources": 0, "group": "another"}
        order["op"] = op if op in ("join", "receive") else "nothing"
    loader.receive(model, [(json.dumps(order), torch.zeros(1))])
    if kind == "wrong_map":
        _change_answer(order, lambda answer: answer | {"copies": _moved(order, answer["copies"])})
    if kind == "bad_map":
        _change_answer(order, lambda answer: answer | {"copies": _keep(order, '[["no map"]]')})
    if kind == "garble":
        _change_answer(order, lambda answer: {"seconds": "?"})
    if kind == "corrupt":
        next(iter(tensors_of(model).values())).view(-1)[3] += 1
    injector.take(op, after=True)


def make_transfers_faulty(injector: Injector) -> None:
    """Have faults at messages of the plug-in's transfers."""
    receive = loader.receive_messages

    def faulty(messages: Any, tensors: Any, group: Any, **options: Any) -> list[int]:
        return receive(messages, tensors, _FaultyGroup(injector, group), **options)

    loader.receive_messages = faulty


@dataclass(frozen=True, slots=True)
class _FaultyGroup:
    injector: Injector
    group: Any

    def recv(self, tensors: list[torch.Tensor], source: int, number: int) -> Any:
        fault = self.injector.take(f"message {number}") or self.injector.take("message")
        if fault is not None and fault.kind == "raise":
            raise RuntimeError("a fault that is injected")
        work = self.group.recv(tensors, source, number)
        is_flipped = fault is not None and fault.kind == "flip"
        return _FlippedWork(work, tensors[0]) if is_flipped else work


@dataclass(frozen=True, slots=True)
class _FlippedWork:
    work: Any
    tensor: torch.Tensor

    def wait(self, timeout: Any) -> None:
        self.work.wait(timeout)
        data = self.tensor.view(torch.uint8)
        data[data.numel() // 2 // 16 * 16 + 2] ^= 1


def _store(order: dict[str, Any]) -> dist.TCPStore:
    return loader._state.store(read_address(order["store"]))


def _change_answer(order: dict[str, Any], change: Callable[[dict], dict]) -> None:
    key = f"answer/{order['token']}/{dist.get_rank()}"
    store = _store(order)
    store.set(key, json.dumps(change(json.loads(store.get(key)))))
    store.check([key])


def _moved(order: dict[str, Any], digest: str) -> str:
    """Return the digest of a map that is valid, with two tensors of a kind exchanged."""
    copies = json.loads(_store(order).get(f"content/{digest}"))
    norms = [copy for copy in copies if copy[0].endswith("input_layernorm.weight")]
    norms[0][0], norms[1][0] = norms[1][0], norms[0][0]
    return _keep(order, json.dumps(copies))


def _keep(order: dict[str, Any], text: str) -> str:
    return loader._keep(text, _store(order))
