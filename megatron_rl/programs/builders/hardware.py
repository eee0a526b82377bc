"""GPUs and packages of this machine, found without loading CUDA or torch."""

import importlib.metadata
import subprocess
from collections.abc import Mapping

from megatron_rl.learner.device.precision import Capability, Device, offered_recipes
from megatron_rl.placement.local_gpus import LocalRoles, assign_gpus

_TIMEOUT_S = 60


def local_device() -> Device:
    """Ask the driver for the least capable GPU of this machine; a CPU when there is none."""
    return Device(
        capability=_least_capability(), te_version=installed_version("transformer-engine")
    )


def describe_precisions(device: Device) -> str:
    """Return the precisions that the device offers, for people."""
    if device.capability is None:
        return "fp32, bf16, fp16 (slow on a CPU)"
    half = "fp32, fp16, bf16" if device.capability >= (8, 0) else "fp32, fp16"
    recipes = offered_recipes(device)
    return f"{half}, fp8 ({', '.join(recipes)})" if recipes else half


def installed_version(package: str) -> str | None:
    """Return the version of an installed distribution, None without it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _least_capability() -> Capability | None:
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except (FileNotFoundError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    return least(done.stdout)


def least(listing: str) -> Capability | None:
    """Return the smallest of the capabilities that nvidia-smi lists, one a line."""
    found = [line.strip().split(".") for line in listing.splitlines() if "." in line]
    return min(((int(major), int(minor)) for major, minor in found), default=None)


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
