"""Determinism of a learner: the same bits whenever the same batches are replayed.

Free of torch until it is asked for, so that launchers can refuse before they start anything.
"""

from collections.abc import MutableMapping

from megatron_rl.config import Precision
from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.precision import Device

ATTENTION = "NVTE_ALLOW_NONDETERMINISTIC_ALGO"
_ENVIRONMENT = {
    # Read by Transformer Engine's attention; Megatron refuses its deterministic mode without it.
    ATTENTION: "0",
    # Otherwise products of several streams share workspace in an order that varies (cuBLAS).
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

MEGATRON_FIELDS = {"deterministic_mode": True}
"""Fields of Megatron's TransformerConfig."""

_HOPPER, _AFTER_HOPPER = (9, 0), (10, 0)


def compute_deterministically(environment: MutableMapping[str, str]) -> None:
    """Ask torch, cuBLAS and Transformer Engine for it. Call before anything touches a GPU.

    What torch cannot do deterministically it does all the same, with a warning that names it.

    Args:
        environment: of this process.

    Raises:
        ConfigError: it says the opposite.
    """
    import torch

    for name, value in _ENVIRONMENT.items():
        environment.setdefault(name, value)
    if environment[ATTENTION] != "0":
        raise ConfigError(
            f"{ATTENTION} ({environment[ATTENTION]}) must be 0 with learner.deterministic = true; "
            "remove it from the environment, or set learner.deterministic = false"
        )
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Everything that is allocated would be filled, to make reads of it reproducible.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def check_determinism(precision: Precision, device: Device) -> None:
    """Raise ConfigError where Transformer Engine has no deterministic attention that fits.

    Its kernel has one on Hopper alone (``get_attention_backend``). Elsewhere it would take one that
    holds the square of a row in memory.
    """
    if device.capability is None or device.te_version is None or precision == "fp32":
        return
    if not _HOPPER <= device.capability < _AFTER_HOPPER:
        found = ".".join(map(str, device.capability))
        raise ConfigError(
            "learner.deterministic (true) needs compute capability 9.x (Hopper) for the attention "
            f"of Transformer Engine, this GPU has {found}; set learner.deterministic = false, or "
            'learner.precision = "fp32", which leaves Transformer Engine out'
        )
