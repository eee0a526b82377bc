"""One learner rank's part: plans, groups of servers, and shards sent through them."""

import collections
import datetime
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_rl.conversion.resharding import (
    Message,
    Piece,
    Planner,
    ServerMap,
    messages_as_json,
    pack_messages,
)
from megatron_rl.errors import WeightSyncError
from megatron_rl.protocols import DeviceQueue
from megatron_rl.serving_plugin.shard_receiver.fingerprints import fingerprint
from megatron_rl.serving_plugin.shard_receiver.groups import end_group, open_group
from megatron_rl.serving_plugin.shard_receiver.regions import padded
from megatron_rl.weight_sync.shards.loader_orders import JOINS, read_content
from megatron_rl.weight_sync.shards.rank_orders import Join, JoinServer, Leave, Send
from megatron_rl.weight_sync.shards.source import ShardSource

WINDOW = 4
"""Messages under way between two ranks, and buffers that each side holds."""
_BUCKET_BYTES = 16 * 2**20
# A smaller piece is cheaper to copy than to send as a message of its own.
_DIRECT_BYTES = 2 * 2**20
_SHORTEST = datetime.timedelta(milliseconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerPlan:
    """Messages to every rank of one server; the same on all learner ranks."""

    messages: tuple[tuple[Message, ...], ...]
    """Per server rank, in the order in which it receives."""
    senders: tuple[int, ...]
    """Learner ranks, in the order of the group's ranks; those of the server follow."""
    texts: tuple[str, ...]
    """What each server rank is told of its messages."""

    def num_bytes(self, server_rank: int) -> int:
        """Return the bytes that a server rank receives."""
        return sum(message.num_bytes for message in self.messages[server_rank])

    def bytes_by_sender(self) -> dict[int, int]:
        """Return the bytes that each learner rank sends to this server."""
        sent = dict.fromkeys(self.senders, 0)
        for messages in self.messages:
            for message in messages:
                sent[message.source] += message.num_bytes
        return sent


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What one learner rank did for one server."""

    error: str | None
    seconds: float
    fingerprints: Mapping[tuple[int, int], int]
    """By server rank and number of the message; empty unless asked for."""


class Plans:
    """Plans of servers, made once for each kind of server and each set of sources."""

    def __init__(self, source: ShardSource) -> None:
        self._planner = Planner(source.spec, source.places, source.quantised)
        self._dtypes = source.dtypes
        self.plan = functools.lru_cache(maxsize=64)(self._plan)

    def unmappable(self, maps: Sequence[ServerMap]) -> dict[str, str]:
        """Return why, by name of each tensor that a server of these maps must be sent whole."""
        reasons: dict[str, str] = {}
        for server_map in maps:
            reasons |= self._planner.unmappable(server_map)
        held = frozenset().union(*(server_map.tensors() for server_map in maps))
        nowhere = self._dtypes.keys() - held
        return reasons | dict.fromkeys(sorted(nowhere), "no rank's loader copies it")

    def _plan(
        self, maps: tuple[ServerMap, ...], replica: int, without: frozenset[str]
    ) -> ServerPlan:
        messages = []
        for rank, server_map in enumerate(maps):
            # Also the ranks of one server draw from different copies; benchmarks/reshard_scale.py.
            pieces = self._planner.pieces(server_map, replica=replica + rank, without=without)
            messages.append(
                tuple(
                    pack_messages(
                        pieces,
                        self._dtypes,
                        direct_bytes=_DIRECT_BYTES,
                        bucket_bytes=_BUCKET_BYTES,
                    )
                )
            )
        senders = tuple(sorted({message.source for part in messages for message in part}))
        texts = (messages_as_json(part, self._dtypes, senders=senders) for part in messages)
        return ServerPlan(messages=tuple(messages), senders=senders, texts=tuple(texts))


class ShardRank:
    """This rank's groups with servers, by incarnation."""

    def __init__(
        self,
        source: ShardSource,
        plans: Plans,
        *,
        rank: int,
        store: tuple[str, int],
        backend: str,
        device: DeviceQueue,
    ) -> None:
        """Prepare.

        Args:
            source: this rank's parameters.
            plans: of the same learner.
            rank: of the learner.
            store: host and port of rank 0's store.
            backend: of the groups.
            device: where ``backend`` needs the tensors, and where they are computed.
        """
        self._source = source
        self._plans = plans
        self._rank = rank
        self._address = store
        self._backend = backend
        self._device = device
        self._links: dict[str, _Link] = {}

    def carry_out(self, order: Join | Send | Leave) -> dict[str, Any]:
        """Do this rank's part of an order; return its outcome for each server, by incarnation.

        A server that fails is an outcome: the error of a Join, None where all went well; Sent of a
        Send.
        """
        if isinstance(order, Join):
            return self._for_each(order.servers, self._join, order.timeout_s)
        if isinstance(order, Send):
            self._device.synchronize()
            mine = [name for name in order.incarnations if name in self._links]
            return self._for_each(mine, self._send, order)
        for name in order.incarnations:
            self._leave(name)
        return {}

    def _for_each(self, items: Sequence[Any], act: Any, *arguments: Any) -> dict[str, Any]:
        """Act for all servers at once, each in a thread."""
        if not items:
            return {}
        with ThreadPoolExecutor(len(items), thread_name_prefix="weight-sync") as pool:
            outcomes = list(pool.map(lambda item: act(item, *arguments), items))
        names = [item.incarnation if isinstance(item, JoinServer) else item for item in items]
        return dict(zip(names, outcomes, strict=True))

    def _join(self, server: JoinServer, timeout_s: float) -> str | None:
        self._leave(server.incarnation)
        try:
            link = self._meet(server, timeout_s)
        except (RuntimeError, WeightSyncError) as error:  # also torch's of stores and networks
            return f"{type(error).__name__}: {error}"
        if link is not None:
            self._links[server.incarnation] = link
        return None

    def _meet(self, server: JoinServer, timeout_s: float) -> "_Link | None":
        """Return the link with a server; None where this rank sends it nothing."""
        store = dist.TCPStore(
            *self._address, is_master=False, timeout=datetime.timedelta(seconds=timeout_s)
        )
        maps = tuple(ServerMap.from_json(read_content(store, digest)) for digest in server.maps)
        plan = self._plans.plan(maps, server.replica, server.without)
        if self._rank not in plan.senders:
            return None
        meeting = dist.PrefixStore(server.group, store)
        for server_rank in range(len(maps)):
            if meeting.get(JOINS.format(rank=server_rank)) != b"yes":
                raise WeightSyncError("the server does not join")
        group = open_group(
            self._backend,
            meeting,
            rank=plan.senders.index(self._rank),
            size=len(plan.senders) + len(maps),
            timeout_s=timeout_s,
        )
        return _Link(group=group, plan=plan)

    def _send(self, incarnation: str, order: Send) -> Sent:
        started = time.monotonic()
        fingerprints: dict[tuple[int, int], int] = {}
        error = self._send_all(self._links[incarnation], order, fingerprints)
        if error is not None:
            # A server rank that waits for what never comes is released by this.
            self._leave(incarnation)
        return Sent(error=error, seconds=time.monotonic() - started, fingerprints=fingerprints)

    def _send_all(
        self, link: "_Link", order: Send, fingerprints: dict[tuple[int, int], int]
    ) -> str | None:
        """Send all messages of this rank; return why they could not be sent.

        In order of number, then server rank, on every learner rank: the first message that has not
        arrived is then under way on both sides, whatever the windows, and nobody waits in a circle.
        """
        deadline = time.monotonic() + order.timeout_s
        under_way: collections.deque[tuple[Any, Tensor, str]] = collections.deque()
        what = "no message"
        try:
            for number, server_rank, message in link.mine(self._rank):
                if len(under_way) == WINDOW:
                    work, _, what = under_way.popleft()
                    work.wait(_until(deadline))
                payload = self._payload(message)
                if order.with_fingerprints:
                    fingerprints[server_rank, number] = fingerprint(payload)
                to = len(link.plan.senders) + server_rank
                name = f"message {number} from rank {self._rank} to rank {server_rank}"
                under_way.append((link.group.send([payload], to, number), payload, name))
            while under_way:
                work, _, what = under_way.popleft()
                work.wait(_until(deadline))
        except RuntimeError as error:  # a peer is gone, or silent
            # As text: an exception would keep its frame, and with it connections open.
            return f"{what}: {type(error).__name__}: {error}"
        return None

    def _payload(self, message: Message) -> Tensor:
        """Return what travels: the parameter's own memory where that is possible, else a copy."""
        if message.is_direct:
            # As bytes: not every backend of torch's knows every type.
            return self._elements(message.pieces[0]).contiguous().view(-1).view(torch.uint8)
        buffer = torch.zeros(message.num_bytes, dtype=torch.uint8, device=self._device.device)
        start = 0
        for piece in message.pieces:
            data = self._elements(piece).contiguous().view(-1).view(torch.uint8)
            buffer[start : start + data.numel()] = data
            start += padded(data.numel())
        return buffer

    def _elements(self, piece: Piece) -> Tensor:
        parameter = self._source.parameter(piece.from_parameter)
        start = parameter.storage_offset() + piece.offset
        shape, strides = (piece.rows, piece.cols), (piece.row_stride, 1)
        dtype = getattr(torch, self._source.dtypes[piece.tensor].name)
        return parameter.as_strided(shape, strides, start).to(self._device.device, dtype)

    def _leave(self, incarnation: str) -> None:
        link = self._links.pop(incarnation, None)
        if link is not None:
            end_group(link.group)


def _until(deadline: float) -> datetime.timedelta:
    """Return the time until a deadline of time.monotonic; after it, the shortest that torch knows.

    To torch, none at all means the time that the group was given.
    """
    return max(datetime.timedelta(seconds=deadline - time.monotonic()), _SHORTEST)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Link:
    """An open group with one server."""

    group: Any
    plan: ServerPlan

    def mine(self, rank: int) -> Iterator[tuple[int, int, Message]]:
        """Yield (number, server rank, message) of what a learner rank sends, in order."""
        numbered = (
            (number, server_rank, message)
            for server_rank, messages in enumerate(self.plan.messages)
            for number, message in enumerate(messages)
            if message.source == rank
        )
        yield from sorted(numbered, key=lambda item: item[:2])
