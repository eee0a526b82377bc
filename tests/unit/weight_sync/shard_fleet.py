"""Fleet of servers of shards, forked from a process that has imported torch, and their learner."""

import functools
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megatron_rl.conversion.families import model_spec, weight_rules
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.conversion.layouts import shard, to_megatron
from megatron_rl.conversion.resharding import DType, LearnerMap, Place
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.model_spec import ModelSpec
from megatron_rl.registry import ServerInfo, register_server
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.shards import rank as rank_module
from megatron_rl.weight_sync.shards.opening import open_shards
from megatron_rl.weight_sync.shards.publisher import Verify
from tests.unit.conversion.family_configs import QWEN3
from tests.unit.conversion.sharded_server import ServerLayout, ServerModel
from tests.unit.weight_sync.shard_faults import Fault
from tests.unit.weight_sync.shard_server import be_server, die_with_parent, seen


@functools.cache
def spec() -> ModelSpec:
    return model_spec(QWEN3)


def whole_tensors(version: int) -> dict[str, torch.Tensor]:
    """Tensors of a version: no two elements of one are equal, nor one element of two versions."""
    tensors, start = {}, 1
    for name, shape in tensor_shapes(spec()):
        count = torch.Size(shape).numel()
        tensors[name] = torch.arange(start, start + count).float().view(shape) + version / 8
        start += count
    assert start < 2**20  # exact in float32
    return tensors


@functools.lru_cache(maxsize=32)
def expected(version: int, tp: int) -> list[dict[str, str]]:
    """Return the fingerprints of each rank's parameters after whole tensors were loaded."""
    found = []
    for rank in range(tp):
        model = ServerModel(spec(), ServerLayout(tp=tp, rank=rank))
        model.load_weights(whole_tensors(version).items())
        found.append(seen(model))
    return found


class Source:
    """Weights of one learner rank, of any version."""

    def __init__(self, *, tp: int = 1, rank: int = 0) -> None:
        self.spec = spec()
        self.quantised: frozenset[str] = frozenset()
        self.shapes = dict(tensor_shapes(self.spec))
        self.dtypes = dict.fromkeys(self.shapes, DType(name="float32", itemsize=4))
        self.places = LearnerMap(
            places=[Place(stage=0, tp_rank=r, ep_rank=0, etp_rank=r) for r in range(tp)],
            stages={rule.megatron: 0 for rule in weight_rules(self.spec)},
            tp=tp,
            etp=tp,
            experts_per_rank=0,
        )
        self._rank, self._tp = rank, tp
        self.version = 0

    def settle(self) -> None:
        """Cut this rank's parameters out of whole tensors."""
        self._whole = whole_tensors(self.version)
        self._parameters = {}
        for rule in weight_rules(self.spec):
            merged = to_megatron(
                rule.layout,
                [self._whole[name] for name in rule.huggingface],
                num_groups=self.spec.num_groups,
                head_dim=self.spec.head_dim,
                interleaved_dim=self.spec.interleaved_dim,
                tp_size=self._tp,
            )
            cut = shard(rule.layout, merged, tp_size=self._tp, tp_rank=self._rank)
            self._parameters[rule.megatron] = cut.contiguous()

    def parameter(self, name: str) -> torch.Tensor:
        return self._parameters[name]

    def whole(self, names: frozenset[str] | None) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._whole.items():
            if names is None or name in names:
                yield name, tensor


@dataclass(kw_only=True)
class ShardServer:
    """A server in processes of its own."""

    run_dir: RunDir
    name: str
    pids: list[int]
    port: int
    incarnation: str = ""
    is_stopped: bool = False
    _starts: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))

    def register(self, *, takes_shards: bool = True) -> None:
        """Register under a new incarnation."""
        self.incarnation = f"{self.name} {self.port} {next(self._starts)}"
        info = ServerInfo(
            name=self.name,
            incarnation=self.incarnation,
            url=f"http://127.0.0.1:{self.port}",
            api_key="k",
            pid=self.pids[0],
            tp=len(self.pids),
            starts_without_weights=True,
            takes_shards=takes_shards,
        )
        register_server(self.run_dir, info)

    def arm(self, fault: Fault) -> None:
        self._call("/test/arm", {"fault": fault.to_json()})

    def state(self) -> dict[str, Any]:
        """Return its state, once all orders before have been carried out.

        One that stops itself after an order may do so after it was told to go on.
        """
        for _ in range(10):
            try:
                return self._call("/test/state", {}, timeout_s=6.0)
            except TimeoutError:
                for pid in filter(_is_alive, self.pids):
                    os.kill(pid, signal.SIGCONT)
        raise AssertionError(f"server {self.name} does not answer")

    def heal(self) -> bool:
        """End its fault; return whether it lives."""
        if not all(map(_is_alive, self.pids)):
            self.kill()
            return False
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)
        for pid in self.pids[1:]:
            os.kill(pid, signal.SIGUSR1)
        self._call("/test/release", {})
        return True

    def kill(self) -> None:
        for pid in self.pids:
            if _is_alive(pid):
                os.kill(pid, signal.SIGKILL)

    def _call(self, route: str, body: dict[str, Any], *, timeout_s: float = 60.0) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("POST", route, body=json.dumps(body))
            response = connection.getresponse()
            text = response.read()
            assert response.status == 200, text
            found: dict[str, Any] = json.loads(text)
            return found
        finally:
            connection.close()


def _is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


class Nursery:
    """The process that servers are forked from."""

    def __init__(self, folder: Path) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}\n"
        code += "from tests.unit.weight_sync.shard_fleet import be_nursery; be_nursery()"
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )

    def start(self, run_dir: RunDir, name: str, *, tp: int = 1) -> ShardServer:
        """Return a server that listens."""
        order = {"run_dir": str(run_dir.root), "name": name, "tp": tp}
        found = self.ask(order | {"log": str(self._folder / f"{name}.log")})
        return ShardServer(run_dir=run_dir, name=name, **found)

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End it, and every server with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


def sends_small_messages(patch: pytest.MonkeyPatch) -> None:
    """Give a small model messages of both kinds, and more than a window of them."""
    patch.setattr(rank_module, "_BUCKET_BYTES", 1 << 14)
    patch.setattr(rank_module, "_DIRECT_BYTES", 1 << 15)


def open_publisher(
    run_dir: RunDir, source: Source, *, verify: Verify, timeout_s: float, passes_on: bool = True
):
    """Return the publisher, or the follower, of a learner rank."""
    return open_shards(
        run_dir,
        source,
        backend="gloo",
        device=CpuPlatform(num_threads=1),
        timeout_s=timeout_s,
        bucket_bytes=1 << 16,
        retry_after_s=0.001,
        verify=verify,
        passes_on=passes_on,
    )


def next_version(version: int | None) -> int | None:
    """Return the version that the first learner rank publishes next, on both; None at the end."""
    box = [version]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _follow(order: dict[str, Any]) -> None:
    """Be the second of two learner ranks."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    store = dist.TCPStore("127.0.0.1", order["port"], is_master=False)
    dist.init_process_group("gloo", store=store, rank=1, world_size=2)
    sends_small_messages(pytest.MonkeyPatch())
    source = Source(tp=2, rank=1)
    follower = open_publisher(
        RunDir(Path(order["run_dir"])), source, verify="always", timeout_s=order["timeout_s"]
    )
    while (version := next_version(None)) is not None:
        source.version = version
        follower.publish(version=version)


def be_nursery() -> None:
    """Fork a server for each order on standard input."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        if os.fork() == 0:
            die_with_parent()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if "port" in order:
                print(json.dumps({"pid": os.getpid()}), flush=True)
                _follow(order)
                os._exit(0)
            tp = order["tp"]
            models = [ServerModel(spec(), ServerLayout(tp=tp, rank=r)) for r in range(tp)]
            be_server(order, models, lambda found: print(json.dumps(found), flush=True))
            os._exit(0)
