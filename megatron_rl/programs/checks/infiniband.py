"""InfiniBand and RoCE as ``doctor`` sees them: devices, and what keeps NCCL from using them."""

import resource
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.programs.checks.finding import Finding


@dataclass(frozen=True, kw_only=True, slots=True)
class InfiniBand:
    """Network devices that can read a GPU's memory themselves (GPUDirect RDMA)."""

    devices: tuple[str, ...]
    active: tuple[str, ...]
    """Devices with a port that is up."""
    has_verbs: bool
    """/dev/infiniband is there; a container may lack it."""
    has_peermem: bool
    """The kernel module nvidia-peermem (or the older nv_peer_mem) is loaded."""
    has_open_driver: bool
    """NVIDIA's open kernel modules are loaded, which offer DMA-BUF in place of nvidia-peermem."""
    can_lock_memory: bool
    """The limit of locked memory is off (ulimit -l)."""


def look_at_infiniband(root: Path = Path("/")) -> InfiniBand:
    """Read /sys, /proc and /dev below ``root``; no device is opened."""
    folder = root / "sys/class/infiniband"
    devices = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    active = [
        device
        for device in devices
        if any("ACTIVE" in _text(port) for port in (folder / device).glob("ports/*/state"))
    ]
    modules = {line.split(" ", 1)[0] for line in _text(root / "proc/modules").splitlines()}
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return InfiniBand(
        devices=tuple(devices),
        active=tuple(active),
        has_verbs=any((root / "dev/infiniband").glob("uverbs*")),
        has_peermem=bool(modules & {"nvidia_peermem", "nv_peer_mem"}),
        has_open_driver="Open Kernel Module" in _text(root / "proc/driver/nvidia/version"),
        can_lock_memory=soft_limit == resource.RLIM_INFINITY,
    )


def infiniband_finding(found: InfiniBand) -> Finding:
    """Return what there is, with a remedy for each thing that NCCL would miss."""
    if not found.devices:
        return Finding(name="infiniband", value="none (nodes talk over TCP)")
    value = f"{', '.join(found.active)} up" if found.active else "no port is up"
    idle = [device for device in found.devices if device not in found.active]
    if found.active and idle:
        value += f", {', '.join(idle)} down"
    if found.has_peermem:
        value += ", nvidia-peermem"
    elif found.has_open_driver:
        value += ", DMA-BUF of the open driver"
    return Finding(name="infiniband", value=value, remedy="; ".join(_remedies(found)))


def _remedies(found: InfiniBand) -> list[str]:
    remedies = []
    if not found.active:
        remedies.append(f"have a port of {', '.join(found.devices)} brought up (ibstat shows them)")
    if not found.has_verbs:
        remedies.append("/dev/infiniband has no uverbs: in a container, mount /dev/infiniband")
    if not (found.has_peermem or found.has_open_driver):
        remedies.append(
            "as root, modprobe nvidia-peermem: without it, or NVIDIA's open kernel modules, data "
            "between nodes goes through the host's memory"
        )
    if not found.can_lock_memory:
        remedies.append(
            "raise the limit of locked memory (ulimit -l unlimited; Slurm: PropagateResourceLimits"
            "Except=MEMLOCK), or NCCL cannot register its buffers"
        )
    return remedies


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another kernel, or no driver
        return ""
