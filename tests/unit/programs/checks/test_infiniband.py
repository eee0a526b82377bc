"""What doctor says of InfiniBand, from folders like those of the kernel."""

from dataclasses import replace
from pathlib import Path

from megatron_rl.programs.checks.infiniband import (
    InfiniBand,
    infiniband_finding,
    look_at_infiniband,
)

WELL = InfiniBand(
    devices=("mlx5_0", "mlx5_1"),
    active=("mlx5_0",),
    has_verbs=True,
    has_peermem=True,
    has_open_driver=False,
    can_lock_memory=True,
)


def written(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_machine_without_devices_needs_nothing(tmp_path):
    found = look_at_infiniband(tmp_path)
    assert found.devices == ()
    finding = infiniband_finding(found)
    assert (finding.value, finding.remedy) == ("none (nodes talk over TCP)", "")


def test_devices_modules_and_files_are_found(tmp_path):
    ports = tmp_path / "sys/class/infiniband"
    written(ports / "mlx5_0/ports/1/state", "4: ACTIVE\n")
    written(ports / "mlx5_1/ports/1/state", "1: DOWN\n")
    written(tmp_path / "proc/modules", "nvidia_peermem 16384 0 - Live 0x0\nnvidia 1 2 - Live 0x0\n")
    written(tmp_path / "dev/infiniband/uverbs0", "")
    found = look_at_infiniband(tmp_path)
    assert replace(found, can_lock_memory=True) == WELL
    version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.1\n"
    written(tmp_path / "proc/driver/nvidia/version", version)
    assert look_at_infiniband(tmp_path).has_open_driver


def test_all_well_has_no_remedy():
    finding = infiniband_finding(WELL)
    assert (finding.value, finding.remedy) == ("mlx5_0 up, mlx5_1 down, nvidia-peermem", "")
    open_driver = infiniband_finding(replace(WELL, has_peermem=False, has_open_driver=True))
    assert open_driver.remedy == "" and "DMA-BUF" in open_driver.value


def test_everything_that_is_missing_has_its_remedy():
    def remedy(**changes) -> str:
        return infiniband_finding(replace(WELL, **changes)).remedy

    assert "modprobe nvidia-peermem" in remedy(has_peermem=False)
    assert "mount /dev/infiniband" in remedy(has_verbs=False)
    assert "ulimit -l unlimited" in remedy(can_lock_memory=False)
    assert "mlx5_0, mlx5_1 brought up" in remedy(active=())
