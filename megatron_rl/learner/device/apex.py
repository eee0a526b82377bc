"""NVIDIA apex: found, or told from the package index's unrelated apex.

Megatron finds apex by itself: FusedAdam and the multi-tensor kernels of clipping where Transformer
Engine does not offer them. Only the fusion of weight gradients has to be asked for.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_rl.errors import ConfigError

REMEDY = "pip uninstall apex, then build github.com/NVIDIA/apex from source, or do without it"

_PARTS = ("multi_tensor_apply", "normalization", "optimizers")
_GRADIENT_FUSION = "fused_weight_gradient_mlp_cuda"


@dataclass(frozen=True, kw_only=True, slots=True)
class Apex:
    """What ``import apex`` would find."""

    kind: Literal["nvidia", "unrelated", "none"]
    folder: Path | None
    """Where it lies."""


def find_apex() -> Apex:
    """Look at the package that is called apex without importing it.

    The package index's project of that name, a web toolkit, has none of NVIDIA's parts.
    """
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return Apex(kind="none", folder=None)
    places = [Path(place) for place in spec.submodule_search_locations or []]
    for place in places:
        if all((place / part / "__init__.py").exists() for part in _PARTS):
            return Apex(kind="nvidia", folder=place)
    return Apex(kind="unrelated", folder=places[0] if places else Path(str(spec.origin)))


def check_apex() -> None:
    """Raise ConfigError for a package called apex that is not NVIDIA's."""
    apex = find_apex()
    if apex.kind == "unrelated":
        raise ConfigError(
            f"{apex.folder}: the installed package apex is the package index's unrelated project, "
            f"not NVIDIA apex, which Megatron takes it for; {REMEDY}"
        )


def has_gradient_fusion() -> bool:
    """Return whether apex's kernel that adds weight gradients up in float32 can be used."""
    if importlib.util.find_spec(_GRADIENT_FUSION) is None:
        return False
    try:
        importlib.import_module(_GRADIENT_FUSION)
    except ImportError:  # built for another torch or CUDA
        return False
    return True
