"""The GPUs this machine offers, found without loading CUDA, and who sees which."""

import subprocess
from collections.abc import Mapping

from megatron_rl.planning.local_gpus import LocalRoles, assign_gpus


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return identifiers for CUDA_VISIBLE_DEVICES; empty without a working NVIDIA driver."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        chosen = environment["CUDA_VISIBLE_DEVICES"].strip()
        return [] if chosen in ("", "-1") else chosen.split(",")
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    return [str(index) for index in range(listing.stdout.count("GPU "))]


class LocalGpus:
    """Environment variables that give every local program its GPUs; none on a machine without."""

    def __init__(
        self, gpus: list[str], *, num_learners: int, num_servers: int, server_tp: int
    ) -> None:
        self._roles: LocalRoles | None = None
        if gpus:
            self._roles = assign_gpus(
                gpus, num_learners=num_learners, num_servers=num_servers, server_tp=server_tp
            )

    @property
    def are_shared(self) -> bool:
        """Whether two programs use one GPU, on which NCCL cannot connect them."""
        return self._roles is not None and self._roles.shares

    def of_learner(self, rank: int) -> dict[str, str]:
        """Return the variables of a learner rank; the one GPU it sees is its local rank 0."""
        if self._roles is None:
            return {}
        return {"CUDA_VISIBLE_DEVICES": self._roles.learners[rank], "LOCAL_RANK": "0"}

    def of_server(self, index: int) -> dict[str, str]:
        """Return the variables of a server."""
        if self._roles is None:
            return {}
        return {"CUDA_VISIBLE_DEVICES": ",".join(self._roles.servers[index])}
