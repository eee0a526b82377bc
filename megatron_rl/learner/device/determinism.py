"""Determinism of a learner: the same bits whenever the same batches are replayed.

Free of torch until it is asked for, so that launchers can refuse before they start anything.
"""

from collections.abc import MutableMapping

from megatron_rl.errors import ConfigError

ATTENTION = "NVTE_ALLOW_NONDETERMINISTIC_ALGO"
_ENVIRONMENT = {
    # Read by Transformer Engine's attention; Megatron refuses its deterministic mode without it.
    ATTENTION: "0",
    # Otherwise products of several streams share workspace in an order that varies (cuBLAS).
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

MEGATRON_FIELDS = {"deterministic_mode": True}
"""Fields of Megatron's TransformerConfig."""


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
