"""NVIDIA apex is told from the package index's unrelated project of that name by its content."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYRAMID = ("apex/__init__.py", "apex/views.py", "apex/models.py", "apex/lib/__init__.py")
NVIDIA = tuple(
    f"apex/{part}__init__.py"
    for part in ("", "multi_tensor_apply/", "normalization/", "optimizers/")
)
# An installed package that would fail if it were imported, as the unrelated one does.
POISON = "raise ImportError('imported')\n"


def install(folder: Path, files: tuple[str, ...]) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(POISON)
    return folder


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that finds the folder's packages first."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


CHECK = """
from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.apex import check_apex, find_apex
print(find_apex().kind)
try:
    check_apex()
except ConfigError as error:
    print(error)
"""
DOCTOR = """
from megatron_rl import cli
cli.main(["doctor"])
"""


def test_the_unrelated_project_is_refused_by_name(tmp_path):
    kind, message = run(install(tmp_path, PYRAMID), CHECK).stdout.splitlines()
    assert kind == "unrelated"
    assert message.startswith(f"{tmp_path / 'apex'}: the installed package apex is the package")
    assert "pip uninstall apex" in message
    assert "NVIDIA/apex" in message


@pytest.mark.parametrize(("files", "kind"), [(NVIDIA, "nvidia"), ((), "none")])
def test_nvidias_apex_and_none_pass(tmp_path, files, kind):
    assert run(install(tmp_path, files), CHECK).stdout.split() == [kind]


def test_a_module_of_that_name_is_unrelated(tmp_path):
    assert run(install(tmp_path, ("apex.py",)), CHECK).stdout.split()[0] == "unrelated"


@pytest.mark.lengthy
def test_doctor_calls_it_fatal(tmp_path):
    done = run(install(tmp_path, PYRAMID), DOCTOR)
    assert "apex" in done.stdout
    assert "unrelated project" in done.stdout
    assert "-> pip uninstall apex" in done.stdout
    assert "something is missing" in done.stdout


def test_gradients_are_fused_only_where_the_kernel_can_be_imported(tmp_path):
    ask = "from megatron_rl.learner.device.apex import has_gradient_fusion as h; print(h())"
    kernel = tmp_path / "fused_weight_gradient_mlp_cuda.py"
    assert run(tmp_path, ask).stdout.strip() == "False"
    kernel.write_text(POISON)  # built for another torch
    assert run(tmp_path, ask).stdout.strip() == "False"
    kernel.write_text("")
    assert run(tmp_path, ask).stdout.strip() == "True"
