"""Shares of a server rank: what each learner rank sends it, planned once for any number of ranks.

The pieces of a server rank depend on where a part of the model begins and ends, not on how many
copies of it the learner has: which copy sends is a remainder. So every rank of one server is
planned against a learner of a single copy, in which each part has a number of its own, and parts
become ranks afterwards. What several parts hold alike, such as a norm, is found by planning twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from megatron_rl.conversion.families import WeightRule
from megatron_rl.conversion.resharding import (
    LearnerMap,
    Piece,
    Place,
    Planner,
    ServerMap,
    pack_messages,
)
from megatron_rl.parallelism.layouts import Layout

from .server_cuts import ServerCut, server_maps
from .tensors import Tensors

BUCKET_BYTES = 16 << 20
DIRECT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What one rank sends to another in one update."""

    num_bytes: int
    num_messages: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Numbered(LearnerMap):
    """A learner of one copy, whose parts have numbers where ranks would be."""

    ep: int

    @property
    def parts_per_stage(self) -> int:
        return self.tp + self.ep * self.etp

    def holders(self, rule: WeightRule) -> list[list[int]]:
        first = self.stages[rule.megatron] * self.parts_per_stage
        if rule.expert is not None:
            first += self.tp + rule.expert // self.experts_per_rank * self.etp
        return [[first + part] for part in range(self.num_parts(rule))]


class Shares:
    """Messages from the learner to each rank of one server; all servers are alike."""

    def __init__(self, tensors: Tensors, layout: Layout, cut: ServerCut) -> None:
        self.tensors = tensors
        self.layout = layout
        self.num_server_ranks = cut.tp
        self._learner = _Numbered(
            places=(),
            stages=stages_of(tensors, layout),
            tp=layout.tp,
            etp=layout.etp,
            experts_per_rank=tensors.spec.num_experts // layout.ep,
            ep=layout.ep,
        )
        planner = Planner(tensors.spec, self._learner)
        self._pieces = [
            list(self._planned(planner, wanted)) for wanted in server_maps(tensors, cut)
        ]
        self._parts = [{part for part, _ in pieces} for pieces in self._pieces]
        self._packed: dict[tuple[int, frozenset[int]], Sent] = {}

    def num_copies(self, num_ranks: int) -> int:
        """Return how many of so many learner ranks hold the same part: of experts, if any."""
        is_mixture = self.tensors.spec.moe is not None
        size = self.layout.ep * self.layout.etp if is_mixture else self.layout.tp
        return num_ranks // self.layout.pp // size

    def sent_to(self, server_rank: int, *, replica: int, num_ranks: int) -> dict[int, Sent]:
        """Return what each of so many learner ranks sends to a server rank."""
        by_rank: dict[int, set[int]] = {}
        for part in self._parts[server_rank]:
            rank = self._rank_of(part, replica, num_ranks)
            by_rank.setdefault(rank, set()).add(part)
        return {rank: self._pack(server_rank, frozenset(parts)) for rank, parts in by_rank.items()}

    def _planned(self, planner: Planner, wanted: ServerMap) -> Iterator[tuple[int, Piece]]:
        """Yield every piece of a server rank with its part; below 0 for any part of a stage."""
        whole = frozenset(
            name
            for rule in self.tensors.rules
            if self._learner.num_parts(rule) == 1
            for name in rule.huggingface
        )
        others = {
            (piece.to_parameter, piece.to_offset): piece.source
            for piece in planner.pieces(wanted, replica=1, without=whole)
        }
        for piece in planner.pieces(wanted, replica=0):
            part = piece.source
            other = others.get((piece.to_parameter, piece.to_offset), part)
            yield (part if other == part else -1 - part // self._learner.parts_per_stage), piece

    def _rank_of(self, part: int, replica: int, num_ranks: int) -> int:
        width, tp = self._learner.parts_per_stage, self.layout.tp
        stage, local = (-1 - part, replica % tp) if part < 0 else divmod(part, width)
        per_stage = num_ranks // self.layout.pp
        size = tp
        if local >= tp:
            local, size = local - tp, width - tp
        return stage * per_stage + local + size * (replica % (per_stage // size))

    def _pack(self, server_rank: int, parts: frozenset[int]) -> Sent:
        key = (server_rank, parts)
        if key not in self._packed:
            messages = pack_messages(
                # Parts of one rank fill its messages together.
                [
                    replace(piece, source=0)
                    for part, piece in self._pieces[server_rank]
                    if part in parts
                ],
                self.tensors.dtypes,
                direct_bytes=DIRECT_BYTES,
                bucket_bytes=BUCKET_BYTES,
            )
            self._packed[key] = Sent(
                num_bytes=sum(message.num_bytes for message in messages),
                num_messages=len(messages),
            )
        return self._packed[key]


def stages_of(tensors: Tensors, layout: Layout) -> dict[str, int]:
    """Return the pipeline stage of every parameter."""
    per_chunk = tensors.spec.num_layers // (layout.pp * layout.vpp)
    stages = {}
    for rule in tensors.rules:
        names = rule.megatron.split(".")
        if names[1] == "layers":
            stages[rule.megatron] = int(names[2]) // per_chunk % layout.pp
        else:
            stages[rule.megatron] = 0 if names[0] == "embedding" else layout.pp - 1
    return stages


def learner_map(tensors: Tensors, layout: Layout, num_ranks: int) -> LearnerMap:
    """Return where the parameters of so many learner ranks are, in Megatron's order of ranks."""
    per_stage = num_ranks // layout.pp
    places = [
        Place(
            stage=rank // per_stage,
            tp_rank=rank % per_stage % layout.tp,
            ep_rank=rank % per_stage // layout.etp % layout.ep,
            etp_rank=rank % per_stage % layout.etp,
        )
        for rank in range(num_ranks)
    ]
    return LearnerMap(
        places=places,
        stages=stages_of(tensors, layout),
        tp=layout.tp,
        etp=layout.etp,
        experts_per_rank=tensors.spec.num_experts // layout.ep,
    )
