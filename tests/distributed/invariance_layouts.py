"""The layouts that must train alike, by names such as tp2xpp2+sp, and how a name is read."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_rl.errors import ConfigError

DENSE = (
    "packed",
    "recompute",
    "dp2",
    "tp2",
    "tp2+sp",
    "pp2",
    "pp2+recompute",
    "pp2xvp2",
    "cp2",
    "dp2xpp2",
    "dp2xpp2xvp2",
    "cp4",
    "tp2xpp2+sp",
    "cp2xtp2",
    "cp2xtp2+sp",
    "cp2xpp2",
)
# Tensor parallelism of a mixture needs sp; an expert is cut alike unless etp says otherwise.
MIXTURE = (
    "packed",
    "recompute",
    "dp2",
    "tp2+sp",
    "pp2",
    "pp2xvp2",
    "cp2",
    "ep2",
    "etp2",
    "tp2+sp+etp1",
    "tp2+sp+ep2xetp1",
    "cp4",
    "tp2xpp2+sp",
    "cp2xtp2+sp",
    "cp2xpp2",
    "ep4",
    "ep2xpp2",
    "dp2xtp2+sp+ep2xetp1",
    "tp2+sp+ep2",
    "ep2xetp2",
)
LATENTS = ("packed", "recompute", "tp2+sp", "pp2xvp2", "cp2", "cp2xtp2+sp", "tp2+sp+ep2xetp1")
"""Of latent attention, in a mixture of experts."""
SINKS = (
    "packed",
    "dp2",
    "tp2+sp+etp1",
    "pp2",
    "cp2",
    "ep2",
    "tp2+sp+ep2xetp1",
)
"""For biases everywhere, attention sinks and windows in turns (gpt-oss)."""
SEQUENCE_RATIOS = ("packed", "dp2", "tp2+sp", "pp2", "pp2xvp2", "cp2", "cp2xpp2")
"""For a loss with one ratio for a sequence (GSPO)."""
TWO_ROTATIONS = (
    "packed",
    "recompute",
    "dp2",
    "tp2+sp",
    "pp2",
    "pp2xvp2",
    "cp2",
    "cp2xtp2+sp",
    "cp2xpp2",
)
"""For a model whose layers that slide are rotated in another way, with sandwich norms (Gemma 3)."""
REFERENCE = "alone"
"""One process, one sequence a row."""
LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "dense": DENSE,
    "mixture": MIXTURE,
    "latents": LATENTS,
    "sinks": SINKS,
    "sequence ratios": SEQUENCE_RATIOS,
    "two rotations": TWO_ROTATIONS,
}
"""By kind of model and loss."""

_OVERLAPPED = {"overlap_grad_reduce": True, "overlap_param_gather": True}
_TIED = {"tied": True}
_TWICE = {"num_minibatches": 2}
_TRUNCATED = {"truncated": True}
VARIANTS: Mapping[str, Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "dense": {
        f"{REFERENCE}, tied": (REFERENCE, _TIED),
        "packed, tied": ("packed", _TIED),
        "tp2, tied": ("tp2", _TIED),
        "pp2, tied": ("pp2", _TIED),
        f"{REFERENCE}, two minibatches": (REFERENCE, _TWICE),
        "packed, two minibatches": ("packed", _TWICE),
        "dp2, two minibatches": ("dp2", _TWICE),
        f"{REFERENCE}, truncated": (REFERENCE, _TRUNCATED),
        "packed, truncated": ("packed", _TRUNCATED),
        "tp2+sp, truncated": ("tp2+sp", _TRUNCATED),
        "cp2, truncated": ("cp2", _TRUNCATED),
        "pp2xvp2, truncated": ("pp2xvp2", _TRUNCATED),
        "dp2, overlapped": ("dp2", _OVERLAPPED),
        "dp2xpp2, overlapped": ("dp2xpp2", _OVERLAPPED),
        "dp2xpp2xvp2, overlapped": ("dp2xpp2xvp2", _OVERLAPPED),
    },
    "mixture": {"ep2, overlapped": ("ep2", _OVERLAPPED)},
    "latents": {},
    "sinks": {"tp2+sp+etp1, overlapped": ("tp2+sp+etp1", _OVERLAPPED)},
    "sequence ratios": {"dp2, overlapped": ("dp2", _OVERLAPPED)},
    "two rotations": {"dp2, overlapped": ("dp2", _OVERLAPPED)},
}
"""Names that say more than a layout: (layout, further settings)."""


def reference_of(name: str) -> str:
    """Return which run of one process trains the same model with the same steps."""
    what = [word for word in ("tied", "two minibatches") if word in name]
    return ", ".join([REFERENCE, *what])


_RECOMPUTE = {
    "recompute_granularity": "full",
    "recompute_method": "uniform",
    "recompute_num_layers": 1,
}
_PART = re.compile(r"(dp|tp|pp|vp|cp|ep|etp)([1-9]\d*)|(sp)|(recompute)|(packed)|(alone)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A layout as the ranks take it."""

    num_ranks: int
    settings: Mapping[str, Any]


def setup_of(name: str) -> Setup:
    """Read a layout such as tp2+sp or dp2xpp2xvp2; raise ConfigError for what is none."""
    sizes: dict[str, Any] = {}
    for part in re.split(r"[x+]", name):
        match = _PART.fullmatch(part)
        if match is None:
            raise ConfigError(f"layout {name}: {part!r} is neither sp nor a size such as tp2")
        sizes |= _setting(match)
    product = 1
    for axis in ("tp", "pp", "cp"):
        product *= sizes[axis] if axis in sizes else 1
    if "dp" in sizes:
        num_ranks = product * sizes.pop("dp")
    else:
        num_ranks = next(n for n in itertools.count(product, product) if _holds_experts(sizes, n))
    return Setup(num_ranks=num_ranks, settings=sizes)


def _setting(match: re.Match[str]) -> dict[str, Any]:
    axis, size, is_sp, is_recomputed, _, is_alone = match.groups()
    if axis is not None:
        return {"vpp" if axis == "vp" else axis: int(size)}
    if is_sp:
        return {"sp": True}
    if is_recomputed:
        return {"megatron": _RECOMPUTE}
    return {"token_budget": 1} if is_alone else {}


def _holds_experts(sizes: Mapping[str, Any], num_ranks: int) -> bool:
    """Return whether the ranks of one pipeline stage make whole sets of experts."""
    of_stage = num_ranks // (sizes["pp"] if "pp" in sizes else 1)
    expert_tp = next((sizes[axis] for axis in ("etp", "tp") if axis in sizes), 1)
    return of_stage % ((sizes["ep"] if "ep" in sizes else 1) * expert_tp) == 0
