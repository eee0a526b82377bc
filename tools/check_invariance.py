"""Show that layouts take the same training steps: one process, or any cut of model and batch.

tools/check_invariance.py --layouts dp2,tp2+sp,pp2xvp2 [--moe]
tools/check_invariance.py --all

Trains a tiny policy on the CPU at each layout, with ranks of its own, and compares loss, gradient
norm, metrics and next weights with those of one process that packs one sequence a row. Exits 1 when
a difference exceeds the tolerance. A layout names tp, pp, vp (chunks of a stage), cp, ep, etp and
dp with their sizes, and sp; dp is as small as it may be when it is not named.
"""

import argparse
import itertools
import math
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.cli import exit_code_of
from megatron_rl.errors import ConfigError

_RANKS = Path(__file__).resolve().parents[1] / "tests" / "distributed"
_DENSE = "dp2,tp2,tp2+sp,pp2,pp2xvp2,cp2,cp4,tp2xpp2+sp,dp2xpp2xvp2,cp2xtp2+sp,cp2xpp2"
_MIXTURE = "dp2,tp2+sp,pp2,cp2,ep2,ep4,ep2xpp2,dp2xtp2+sp+ep2xetp1"
_REFERENCE = "alone"
_PART = re.compile(r"(dp|tp|pp|vp|cp|ep|etp)([1-9]\d*)|(sp)")
_IGNORED = ("learner/tokens_per_s", "time/update_s", "packing/waste", "packing/rows")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """A layout as the ranks take it."""

    num_ranks: int
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What training at one layout came to."""

    metrics: Sequence[Mapping[str, float]]
    """Of each batch."""
    weights: Mapping[str, Any]
    """Tensors by Hugging Face name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; 0 when every layout agrees, 1 when one does not, 2 when one is not legal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--layouts", help="names, separated by commas")
    which.add_argument("--all", action="store_true", help=f"{_DENSE}; with --moe {_MIXTURE}")
    add("--moe", action="store_true", help="a mixture of experts instead of a dense policy")
    add("--tolerance", type=float, default=1e-5, help="largest difference (%(default)s)")
    add("--timeout-s", type=float, default=300.0, help="of each number of ranks (%(default)s)")
    options = parser.parse_args(argv)
    return exit_code_of(lambda: _check(options))


def setup_of(name: str) -> Setup:
    """Read a layout such as tp2+sp or dp2xpp2xvp2; raise ConfigError for what is none."""
    sizes: dict[str, Any] = {}
    for part in re.split(r"[x+]", name):
        match = _PART.fullmatch(part)
        if match is None:
            raise ConfigError(f"layout {name}: {part!r} is neither sp nor a size such as tp2")
        sizes |= {"sp": True} if match[3] else {match[1]: int(match[2])}
    product = 1
    for axis in ("tp", "pp", "cp"):
        product *= sizes[axis] if axis in sizes else 1
    if "dp" in sizes:
        num_ranks = product * sizes.pop("dp")
    else:
        num_ranks = next(n for n in itertools.count(product, product) if _holds_experts(sizes, n))
    if "vp" in sizes:
        sizes["vpp"] = sizes.pop("vp")
    return Setup(num_ranks=num_ranks, settings=sizes)


def _holds_experts(sizes: Mapping[str, Any], num_ranks: int) -> bool:
    """Return whether the ranks of one pipeline stage make whole sets of experts."""
    of_stage = num_ranks // (sizes["pp"] if "pp" in sizes else 1)
    expert_tp = next((sizes[axis] for axis in ("etp", "tp") if axis in sizes), 1)
    return of_stage % ((sizes["ep"] if "ep" in sizes else 1) * expert_tp) == 0


def _check(options: argparse.Namespace) -> int:
    # The policy, its batches and the start of ranks are those of the tests.
    sys.path.insert(0, str(_RANKS))
    from tiny_policy import CONFIG, MOE_CONFIG

    from megatron_rl.config import ParallelConfig
    from megatron_rl.conversion.families import model_spec
    from megatron_rl.planning.layouts import check_world_size
    from megatron_rl.programs.layout import check_layout_of, layout_of

    names = (_MIXTURE if options.moe else _DENSE) if options.all else options.layouts
    setups = {name: setup_of(name) for name in names.split(",")}
    for name, setup in setups.items():
        parallel = ParallelConfig(**setup.settings)
        try:
            check_layout_of(parallel, model_spec(MOE_CONFIG if options.moe else CONFIG))
            check_world_size(layout_of(parallel), world_size=setup.num_ranks)
        except ConfigError as error:
            raise ConfigError(f"layout {name}: {error}") from error
    setups[_REFERENCE] = Setup(num_ranks=1, settings={"token_budget": 1})
    outcomes = _train(setups, is_mixture=options.moe, timeout_s=options.timeout_s)
    return 0 if _report(outcomes, tolerance=options.tolerance) else 1


def _train(
    setups: Mapping[str, Setup], *, is_mixture: bool, timeout_s: float
) -> dict[str, Outcome]:
    """Train at every layout, all those of a number of ranks in one launch."""
    import torch
    from ranks import free_port, run_on_ranks

    work = "train_mixture_at_layouts" if is_mixture else "train_at_layouts"
    metrics: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for num_ranks in sorted({setup.num_ranks for setup in setups.values()}):
            layouts = {n: dict(s.settings) for n, s in setups.items() if s.num_ranks == num_ranks}
            argument = {
                "layouts": layouts,
                "ports": [free_port() for _ in layouts],
                "folder": folder,
            }
            metrics |= run_on_ranks(
                f"invariance_ranks:{work}", argument, num_ranks=num_ranks, timeout_s=timeout_s
            )
        return {
            name: Outcome(metrics=metrics[name], weights=torch.load(Path(folder) / f"{name}.pt"))
            for name in setups
        }


def weight_difference(outcome: Outcome, reference: Outcome) -> float:
    """Return the largest |a - b| / |b| (Frobenius norms) of any tensor."""
    assert list(outcome.weights) == list(reference.weights)
    return max(
        _or_infinite(float((outcome.weights[name] - weight).norm() / weight.norm()))
        for name, weight in reference.weights.items()
    )


def metric_difference(outcome: Outcome, reference: Outcome) -> tuple[float, str]:
    """Return the largest |a - b| / max(1, |b|) of any metric of any batch, and its name."""
    return max(
        (_or_infinite(abs(actual[name] - value) / max(1.0, abs(value))), name)
        for actual, expected in zip(outcome.metrics, reference.metrics, strict=True)
        for name, value in expected.items()
        if name not in _IGNORED
    )


def _or_infinite(difference: float) -> float:
    """Return the difference, infinity for nan, which max() would pass over."""
    return math.inf if math.isnan(difference) else difference


def _report(outcomes: Mapping[str, Outcome], *, tolerance: float) -> bool:
    """Print one line for every layout; return whether all agree with the reference."""
    print(f"{'layout':<24}{'weights':>10}{'metrics':>10}  {'':<28}against one process")
    holds = True
    for name, outcome in outcomes.items():
        if name == _REFERENCE:
            continue
        weights = weight_difference(outcome, outcomes[_REFERENCE])
        metrics, worst = metric_difference(outcome, outcomes[_REFERENCE])
        agrees = weights <= tolerance and metrics <= tolerance
        holds = holds and agrees
        verdict = "ok" if agrees else f"DIFFERS by more than {tolerance}"
        print(f"{name:<24}{weights:>10.1e}{metrics:>10.1e}  {worst:<28}{verdict}")
    return holds


if __name__ == "__main__":
    sys.exit(main())
