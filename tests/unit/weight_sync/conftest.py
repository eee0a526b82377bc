"""Servers of shards that the tests of a module share."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from megatron_rl.weight_sync import fleet as fleets
from tests.unit.weight_sync.shard_fleet import Nursery, sends_small_messages
from tests.unit.weight_sync.shard_publications import Fleet


@pytest.fixture(scope="module")
def nursery(tmp_path_factory) -> Iterator[Nursery]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    nursery = Nursery(tmp_path_factory.mktemp("logs"))
    patch = pytest.MonkeyPatch()
    sends_small_messages(patch)
    patch.setattr(fleets, "ORDER_TIMEOUT_S", 1.5)  # as small a part of all as it is by default
    yield nursery
    patch.undo()
    nursery.close()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def fleet(nursery, tmp_path_factory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("run"), nursery)
    yield fleet
    fleet.end()


@pytest.fixture(scope="module")
def fleet_of_two_ranks(nursery, tmp_path_factory) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path_factory.mktemp("run2"), nursery, tp=2)
    yield fleet
    fleet.end()
