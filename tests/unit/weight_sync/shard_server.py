"""Server of SGLang's admin routes with the real plug-in, in processes of its own, a rank each.

The first answers HTTP in threads, and orders to the model go one by one, in order, to all ranks.
"""

import contextlib
import ctypes
import datetime
import io
import json
import os
import pickle
import queue
import signal
import threading
from base64 import b64decode
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_rl.registry import INCOMPLETE_WEIGHTS, routable_servers
from megatron_rl.run_dir import RunDir
from megatron_rl.serving_plugin.shard_receiver import loader
from megatron_rl.serving_plugin.shard_receiver.fingerprints import fingerprint
from megatron_rl.serving_plugin.shard_receiver.regions import tensors_of
from tests.unit.conversion.sharded_server import ServerModel
from tests.unit.weight_sync.shard_faults import (
    Fault,
    Injector,
    make_transfers_faulty,
    run_loader,
)

# A server that goes on late joins a group that is gone: it tries for this long.
_TIMEOUT = datetime.timedelta(seconds=20)
Answer = dict[str, Any]


class Rank:
    """What one scheduler process does with an order, as SGLang's does."""

    def __init__(self, rank: int, model: ServerModel) -> None:
        self.model = model
        self.injector = Injector(rank)
        self.violations: list[str] = []
        self._tp_rank = rank
        self._has_session = False
        self._groups: dict[str, Any] = {}
        make_transfers_faulty(self.injector)

    def act(self, route: str, body: dict[str, Any]) -> Answer:
        """Carry out an order; answer with ``success`` as SGLang does."""
        try:
            return _ACTS[route](self, body) or {"success": True}
        except RuntimeError as error:
            # As text, so that no frame keeps a connection open.
            return {"success": False, "message": str(error)}

    def begin(self, body: dict[str, Any]) -> None:
        if self._has_session:
            raise RuntimeError("a session is open")
        self._has_session = True

    def end(self, body: dict[str, Any]) -> None:
        self._need_session()
        self._has_session = False

    def join(self, body: dict[str, Any]) -> None:
        """Do as torch's ``_new_process_group_helper`` does."""
        name = body["group_name"]
        store: dist.Store = dist.TCPStore(
            body["master_address"], body["master_port"], is_master=False, timeout=_TIMEOUT
        )
        for prefix in (name, f"{name}/", "cpu/"):
            store = dist.PrefixStore(prefix, store)
        place = body["rank_offset"] + self._tp_rank
        self._groups[name] = dist.ProcessGroupGloo(store, place, body["world_size"], _TIMEOUT)

    def receive(self, body: dict[str, Any]) -> None:
        self._need_session()
        group, weights = self._groups[body["group_name"]], []
        for name, dtype, shape in zip(body["names"], body["dtypes"], body["shapes"], strict=True):
            tensor = torch.empty(shape, dtype=getattr(torch, dtype))
            weights.append((name, tensor, group.broadcast([tensor])))
        for _, _, work in weights:
            work.wait()
        self.model.load_weights((name, tensor) for name, tensor, _ in weights)

    def leave(self, body: dict[str, Any]) -> None:
        if self._groups.pop(body["group_name"], None) is None:
            raise RuntimeError("no such group")

    def run_loader(self, body: dict[str, Any]) -> None:
        self._need_session()
        text = b64decode(body["serialized_named_tensors"][self._tp_rank])
        ((order, _),) = pickle.load(io.BytesIO(text))
        run_loader(self.injector, self.model, order)

    def arm(self, body: dict[str, Any]) -> None:
        self.injector.arm(Fault(**body["fault"]))

    def state(self, body: dict[str, Any]) -> Answer:
        """Return what tests look at; of all ranks."""
        mine = {
            "seen": seen(self.model),
            "groups": sorted(self._groups),
            "link": loader._state.group and loader._state.group[0],
            "feeder": loader._state.feeder.name if loader._state.feeder else "",
            "sister": loader._state.sister.name if loader._state.sister else "",
        }
        ranks: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(ranks, mine)
        return {"success": True, "ranks": ranks, "has_session": self._has_session}

    def nothing(self, body: dict[str, Any]) -> None:
        """Take a turn."""

    def _need_session(self) -> None:
        if not self._has_session:
            raise RuntimeError("no session is open")


_ACTS = {
    "/begin_weight_update": Rank.begin,
    "/end_weight_update": Rank.end,
    "/init_weights_update_group": Rank.join,
    "/update_weights_from_distributed": Rank.receive,
    "/destroy_weights_update_group": Rank.leave,
    "/update_weights_from_tensor": Rank.run_loader,
    "/flush_cache": Rank.nothing,
    "/test/arm": Rank.arm,
    "/test/state": Rank.state,
}
_CHANGING = {"/update_weights_from_distributed", "/update_weights_from_tensor"}


def seen(model: torch.nn.Module) -> dict[str, str]:
    """Return fingerprints of all parameters."""
    return {name: f"{fingerprint(tensor):016x}" for name, tensor in tensors_of(model).items()}


class Front(ThreadingHTTPServer):
    """What answers HTTP; on rank 0."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, run_dir: RunDir, name: str, rank: Rank) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.run_dir, self.name, self.rank = run_dir, name, rank
        self.orders: queue.Queue[tuple[str, dict[str, Any], Future[Answer]]] = queue.Queue()
        self.label, self.is_paused = "none", False
        self.resumed: list[Answer] = []
        """What it had, and who routed to it, each time that it left its pause since asked."""
        self.violations: list[str] = []

    def carry_out(self, route: str, body: dict[str, Any]) -> Answer:
        if route == "/model_info":
            return {"weight_version": self.label}
        if route == "/pause_generation":
            self.is_paused = True
        elif route == "/continue_generation":
            if self.is_paused:
                is_routable = self.name in routable_servers(self.run_dir)
                model = self.rank.model
                self.resumed.append(
                    {"label": self.label, "is_routable": is_routable, "seen": seen(model)}
                )
            self.is_paused = False
        elif route == "/update_weight_version":
            self.label = body["new_version"]
        elif route in _ACTS:
            return self._schedule(route, body)
        return {"success": True}

    def _schedule(self, route: str, body: dict[str, Any]) -> Answer:
        if route in _CHANGING and self.label != INCOMPLETE_WEIGHTS:
            self.violations.append(f"{route} under label {self.label}")
        is_running = route in _CHANGING and not self.is_paused
        if is_running and self.name in routable_servers(self.run_dir):
            self.violations.append(f"{route} without a pause")
        answer: Future[Answer] = Future()
        self.orders.put((route, body, answer))
        found = answer.result()
        if route == "/test/state":
            found |= {"label": self.label, "is_paused": self.is_paused, "resumed": self.resumed}
            found |= {"violations": self.violations, "num_faults": self.rank.injector.num_had}
            self.resumed = []
        return found

    def work(self) -> None:
        """Carry out orders to the model, all ranks together, for ever."""
        while True:
            route, body, answer = self.orders.get()
            answer.set_result(act_together(self.rank, (route, body)))


def act_together(rank: Rank, order: tuple[str, dict[str, Any]] | None) -> Answer:
    """Carry out an order of the first rank's on all; the first answers with the last failure."""
    box = [order]
    if dist.get_world_size() > 1:
        dist.broadcast_object_list(box, src=0)
    route, body = box[0]
    answer = rank.act(route, body)
    if dist.get_world_size() > 1:
        dist.barrier()
    return answer


class _Handler(BaseHTTPRequestHandler):
    server: Front
    protocol_version = "HTTP/1.0"

    def answer(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        route = self.path.partition("?")[0]
        if route == "/test/release":
            self.server.rank.injector.release()
            self._say(200, {})
            return
        injector = self.server.rank.injector
        fault = injector.take(route)
        kind = fault.kind if fault is not None else ""
        if kind in ("close", "hang"):
            self.close_connection = True
            return
        if kind in ("refuse", "no_success"):
            self._say(500 if kind == "refuse" else 200, {"success": False, "message": "fault"})
            return
        found = self.server.carry_out(route, json.loads(text) if text else {})
        fault = injector.take(route, after=True)
        if fault is not None and fault.kind == "close":
            self.close_connection = True
            return
        self._say(200, found)

    do_GET = do_POST = answer

    def _say(self, status: int, answer: Answer) -> None:
        with contextlib.suppress(OSError):  # nobody waits any more
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


def be_server(order: dict[str, Any], models: list[ServerModel], say: Any) -> None:
    """Be a server of a rank for each model; ``say`` where it listens, and in which processes.

    Args:
        order: ``run_dir``, ``name`` and ``log``.
        models: the ranks'.
        say: called once it listens.
    """
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 2)
    tp = len(models)
    store: dist.Store = dist.HashStore()
    if tp > 1:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pids, index = [os.getpid()], 0
    for other in range(1, tp):
        pid = os.fork()
        if pid == 0:
            die_with_parent()
            index = other
            break
        pids.append(pid)
    if index:
        port = store.port  # type: ignore[attr-defined]
        store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=index, world_size=tp)
    rank = Rank(index, models[index])
    if index:
        # A hang of the first is released over HTTP, see Front.
        signal.signal(signal.SIGUSR1, lambda *_: rank.injector.release())
        while True:
            act_together(rank, None)
    front = Front(RunDir(Path(order["run_dir"])), order["name"], rank)
    threading.Thread(target=front.serve_forever, args=[0.05], daemon=True).start()
    say({"pids": pids, "port": front.server_address[1]})
    front.work()


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, also where it is stopped."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
