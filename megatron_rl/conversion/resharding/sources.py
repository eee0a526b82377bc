"""Sources of shards: which learner ranks hold which part of which parameter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megatron_rl.conversion.families import WeightRule


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Coordinates of one learner rank, without those that copies of a part differ in."""

    stage: int
    tp_rank: int
    ep_rank: int
    etp_rank: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerMap:
    """Where the learner's parameters are; the same on every rank."""

    places: Sequence[Place]
    """Of every rank, in order."""
    stages: Mapping[str, int]
    """Pipeline stage of each parameter of the whole model, the first of those that hold it."""
    tp: int
    etp: int
    experts_per_rank: int
    """Experts of a layer that one rank holds; 0 without any."""

    def num_parts(self, rule: WeightRule) -> int:
        """Return how many ranks a parameter is cut over."""
        return self.tp if rule.expert is None else self.etp

    def holders(self, rule: WeightRule) -> list[list[int]]:
        """Return the ranks that hold each part of a parameter: copies of it, in order."""
        stage = self.stages[rule.megatron]
        held: list[list[int]] = [[] for _ in range(self.num_parts(rule))]
        for rank, place in enumerate(self.places):
            if place.stage != stage:
                continue
            if rule.expert is None:
                held[place.tp_rank].append(rank)
            elif place.ep_rank == rule.expert // self.experts_per_rank:
                held[place.etp_rank].append(rank)
        return held
