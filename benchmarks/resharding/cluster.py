"""Cluster of GPUs: what goes over which link, and how long that takes."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Nodes of equal GPUs: NVLink within a node, one NIC a GPU between nodes, both full duplex."""

    gpus_per_node: int = 8
    nvlink: float = 450e9
    """Bytes/s of one GPU in one direction (H100 and H200)."""
    nic: float = 50e9
    """Bytes/s of one GPU in one direction (400 Gb/s)."""
    message_s: float = 20e-6
    """Time that a message costs the GPU that sends and the one that receives it, whatever its
    size: a launch and a handshake. An assumption."""
    hop_s: float = 5e-6
    """Time from rank to rank within a broadcast. An assumption."""
    chunk_bytes: int = 512 << 10
    """Part of a broadcast that a rank passes on as soon as it has it (NCCL's ring)."""

    def is_one_node(self, source: int, target: int) -> bool:
        """Return whether two GPUs reach each other by NVLink."""
        return source // self.gpus_per_node == target // self.gpus_per_node

    def seconds(self, source: int, target: int, num_bytes: float) -> float:
        """Return how long bytes are on the link between two GPUs."""
        return num_bytes / (self.nvlink if self.is_one_node(source, target) else self.nic)


@dataclass(kw_only=True, slots=True)
class Load:
    """Bytes and messages of one end of one link."""

    num_bytes: float = 0
    num_messages: int = 0


class Traffic:
    """What every GPU sends and receives, link by link."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.num_messages = 0
        self._out: dict[tuple[int, bool], Load] = {}
        self._into: dict[tuple[int, bool], Load] = {}

    def send(self, source: int, target: int, num_bytes: float, num_messages: int) -> None:
        """Note what one GPU sends to another."""
        assert source != target, source
        is_near = self.cluster.is_one_node(source, target)
        self.num_messages += num_messages
        for ends, gpu in ((self._out, source), (self._into, target)):
            load = ends.setdefault((gpu, is_near), Load())
            load.num_bytes += num_bytes
            load.num_messages += num_messages

    def bytes_out(self, gpu: int) -> float:
        """Return what a GPU sends, over all its links."""
        return _bytes_at(self._out, gpu)

    def bytes_into(self, gpu: int) -> float:
        """Return what a GPU receives, over all its links."""
        return _bytes_at(self._into, gpu)

    def seconds(self) -> float:
        """Return the time of the busiest end of a link; all links work at once."""
        return max(
            load.num_bytes / (self.cluster.nvlink if is_near else self.cluster.nic)
            + load.num_messages * self.cluster.message_s
            for ends in (self._out, self._into)
            for (_, is_near), load in ends.items()
        )


def _bytes_at(ends: dict[tuple[int, bool], Load], gpu: int) -> float:
    return sum(ends[gpu, is_near].num_bytes for is_near in (False, True) if (gpu, is_near) in ends)
