"""Show that layouts take the same training steps: one process, or any cut of model and batch.

tools/check_invariance.py --layouts dp2,tp2+sp,pp2xvp2 [--kind mixture]
tools/check_invariance.py --all

Trains a tiny policy on the CPU at each layout, with ranks of its own, and compares metrics,
gradients (of every tensor, by its norm) and next weights with those of one process that packs one
sequence a row, and these in turn with plain torch in float64. Two batches with the policy loss are
followed by one of demonstrations; the kind "sequence ratios" takes GSPO with all that an objective
may have, and has no float64 counterpart. --all also overlaps communication, ties embeddings and
takes two steps a batch. Exits 1 when a difference exceeds the tolerance. A layout names tp, pp, vp
(chunks of a stage), cp, ep, etp and dp with their sizes, sp, recompute (all activations), and
packed for one process; dp is as small as it may be when it is not named.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.cli import exit_code_of
from megatron_rl.errors import ConfigError
from megatron_rl.programs.processes.logs import start_logging

# The policy, its batches, the layouts and the start of ranks are those of the tests.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "distributed"))

from invariance_layouts import LAYOUTS, REFERENCE, VARIANTS, Setup, reference_of, setup_of

_IGNORED = ("learner/", "time/", "packing/", "sft/tokens_per_s")
_SMALL = 0.1
"""Metrics below this are compared by their difference over it."""
_IN_FLOAT64 = ("dense", "mixture", "latents", "sinks")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What training at one layout came to."""

    metrics: Sequence[Mapping[str, float]]
    """Of each batch."""
    gradients: Mapping[str, Mapping[str, Any]]
    """Of the first step of each loss, tensors by Hugging Face name."""
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
    which.add_argument("--all", action="store_true", help="every layout of the tests, every kind")
    add("--kind", choices=list(LAYOUTS), help="of model and loss (dense, or with --all every one)")
    add("--tolerance", type=float, default=1e-5, help="largest difference (%(default)s)")
    add("--timeout-s", type=float, default=600.0, help="of all layouts of a kind (%(default)s)")
    options = parser.parse_args(argv)
    return exit_code_of(lambda: _check(options))


def _check(options: argparse.Namespace) -> int:
    start_logging()
    kinds = [options.kind] if options.kind is not None else list(LAYOUTS)
    if not options.all:
        kinds = kinds[:1]
    holds = True
    for kind in kinds:
        names = LAYOUTS[kind] if options.all else options.layouts.split(",")
        setups = {name: setup_of(name) for name in names}
        _refuse_illegal(kind, setups)
        if options.all:
            setups |= {name: _varied(*variant) for name, variant in VARIANTS[kind].items()}
        outcomes = _train(kind, setups, timeout_s=options.timeout_s)
        print(f"{kind}, against one process")
        holds = _report(kind, outcomes, tolerance=options.tolerance) and holds
    return 0 if holds else 1


def _refuse_illegal(kind: str, setups: Mapping[str, Setup]) -> None:
    from tiny_policy import CONFIG, CONFIGS

    from megatron_rl.config import ParallelConfig
    from megatron_rl.conversion.families import model_spec
    from megatron_rl.parallelism.layouts import check_world_size
    from megatron_rl.programs.builders.model import check_layout_of, layout_of

    spec = model_spec(CONFIGS[kind] if kind in CONFIGS else CONFIG)
    for name, setup in setups.items():
        axes = {k: v for k, v in setup.settings.items() if k not in ("megatron", "token_budget")}
        parallel = ParallelConfig(**axes)
        try:
            check_layout_of(parallel, spec)
            check_world_size(layout_of(parallel), world_size=setup.num_ranks)
        except ConfigError as error:
            raise ConfigError(f"layout {name}: {error}") from error


def _varied(layout: str, further: Mapping[str, Any]) -> Setup:
    setup = setup_of(layout)
    return Setup(num_ranks=setup.num_ranks, settings={**setup.settings, **further})


def _train(kind: str, setups: Mapping[str, Setup], *, timeout_s: float) -> dict[str, Outcome]:
    """Train at every layout, all in one launch."""
    import torch
    from ranks import free_port, run_on_ranks

    setups = {REFERENCE: setup_of(REFERENCE), **setups}
    jobs = {
        name: {
            "kind": kind,
            "num_ranks": setup.num_ranks,
            "port": free_port(),
            "settings": dict(setup.settings),
        }
        for name, setup in setups.items()
    }
    num_ranks = math.lcm(*(setup.num_ranks for setup in setups.values()))
    with tempfile.TemporaryDirectory() as folder:
        argument = {"jobs": jobs, "folder": folder}
        run_on_ranks("invariance_ranks:train", argument, num_ranks=num_ranks, timeout_s=timeout_s)
        found = {name: torch.load(Path(folder) / f"{name}.pt") for name in setups}
    return {
        name: Outcome(
            metrics=outcome["metrics"],
            gradients=outcome["gradients"],
            weights=outcome["weights"],
        )
        for name, outcome in found.items()
    }


def tensor_difference(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Return the largest |a - b| / |b| (Frobenius norms) of any tensor."""
    assert list(actual) == list(expected)
    return max(
        # The gradient of an expert that no token went to is zero.
        _or_infinite(float((actual[name] - tensor).norm() / tensor.norm().clamp(min=1e-30)))
        for name, tensor in expected.items()
    )


def metric_difference(outcome: Outcome, reference: Outcome) -> tuple[float, str]:
    """Return the largest |a - b| / max(0.1, |b|) of any metric of any batch, and its name."""
    return max(
        (_or_infinite(abs(actual[name] - value) / max(_SMALL, abs(value))), name)
        for actual, expected in zip(outcome.metrics, reference.metrics, strict=True)
        for name, value in expected.items()
        if not name.startswith(_IGNORED)
    )


def _or_infinite(difference: float) -> float:
    """Return the difference, infinity for nan, which max() would pass over."""
    return math.inf if math.isnan(difference) else difference


def _report(kind: str, outcomes: Mapping[str, Outcome], *, tolerance: float) -> bool:
    """Print one line for every layout; return whether all agree with their reference."""
    print(f"{'layout':<30}{'gradients':>10}{'weights':>10}{'metrics':>10}")
    verdicts = [
        _compare(name, outcome, outcomes[reference_of(name)], tolerance=tolerance)
        for name, outcome in outcomes.items()
        if name != reference_of(name)
    ]
    if kind in _IN_FLOAT64:
        verdicts += [
            _compare(f"{name}, float64", outcome, _in_plain_torch(kind, name), tolerance=tolerance)
            for name, outcome in outcomes.items()
            if name == reference_of(name)
        ]
    return all(verdicts)


def _compare(name: str, outcome: Outcome, reference: Outcome, *, tolerance: float) -> bool:
    gradients = max(
        tensor_difference(outcome.gradients[loss], expected)
        for loss, expected in reference.gradients.items()
    )
    weights = tensor_difference(outcome.weights, reference.weights)
    metrics, worst = metric_difference(outcome, reference)
    agrees = max(gradients, weights, metrics) <= tolerance
    verdict = "ok" if agrees else f"DIFFERS by more than {tolerance}"
    print(f"{name:<30}{gradients:>10.1e}{weights:>10.1e}{metrics:>10.1e}  {worst:<28}{verdict}")
    return agrees


def _in_plain_torch(kind: str, name: str) -> Outcome:
    from invariance_reference import train_in_plain_torch

    num_minibatches = 2 if "two minibatches" in name else 1
    return Outcome(
        **train_in_plain_torch(
            kind=kind,
            tied="tied" in name,
            num_minibatches=num_minibatches,
            is_truncated="truncated" in name,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
