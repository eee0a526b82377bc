"""Torch extensions of the learner's environment: whether they were built for its torch.

An extension that was built for another torch or CUDA installs like any other and fails when it is
imported, usually with an undefined symbol. Each is therefore imported, in a process of its own.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.programs.checks.finding import Finding

_TIMEOUT_S = 180
"""The first import after an installation reads gigabytes."""
_CUDNN = "import torch; print('cudnn', torch.backends.cudnn.version())"
_ENGINE = f"import transformer_engine.pytorch; {_CUDNN}"
_APEX = "import torch, amp_C, apex.optimizers"
_SYMBOL = "undefined symbol"


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """What came of importing an extension."""

    error: str | None
    """Last line of the traceback; None when it worked."""
    cudnn: tuple[int, int, int] | None = None
    """cuDNN that torch has loaded, where the import asks for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TorchExtensions:
    """Imports of what is installed; None is not installed."""

    engine: Import | None
    apex: Import | None


def import_extensions(python: Path, *, has_engine: bool, has_apex: bool) -> TorchExtensions:
    """Import each installed extension with ``python``, which takes seconds."""
    return TorchExtensions(
        engine=imported(python, _ENGINE) if has_engine else None,
        apex=imported(python, _APEX) if has_apex else None,
    )


def extension_findings(found: TorchExtensions) -> Iterator[Finding]:
    """Yield what cannot be imported, with the way to build it anew."""
    rebuild = "delete wheels/{0}*.whl and .venv/{1}, then run make env GPU=1{2}"
    if found.engine is not None:
        yield _finding("te build", found.engine, rebuild.format("transformer_engine", ".stamp", ""))
    if found.apex is not None:
        yield _finding("apex build", found.apex, rebuild.format("apex", ".apex", " APEX=FOLDER"))


def imported(python: Path, statements: str) -> Import:
    """Run import statements, and read what they print of cuDNN."""
    try:
        done = subprocess.run(
            [str(python), "-c", statements], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Import(error=str(error))
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return Import(error=lines[-1] if lines else f"exit code {done.returncode}")
    return Import(error=None, cudnn=_cudnn(done.stdout))


def cudnn_version(number: int) -> tuple[int, int, int]:
    """Return 92000 as (9, 20, 0), as cuDNN counts from version 9 on."""
    return number // 10_000, number // 100 % 100, number % 100


def _finding(name: str, found: Import, rebuild: str) -> Finding:
    if found.error is None:
        return Finding(name=name, value="imports with the installed torch")
    if _SYMBOL in found.error:
        value = f"was built for another torch: {found.error}"
        return Finding(name=name, value=value, remedy=rebuild)
    remedy = f"import it by hand to see the cause; if it was built elsewhere, {rebuild}"
    return Finding(name=name, value=f"does not import: {found.error}", remedy=remedy)


def _cudnn(out: str) -> tuple[int, int, int] | None:
    for line in out.splitlines():
        word, _, number = line.partition(" ")
        if word == "cudnn" and number.isdigit():
            return cudnn_version(int(number))
    return None
