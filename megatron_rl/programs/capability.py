"""What this machine can compute in, found without loading CUDA or torch."""

import importlib.metadata
import subprocess

from megatron_rl.learner.precision import Capability, Device, offered_recipes

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
