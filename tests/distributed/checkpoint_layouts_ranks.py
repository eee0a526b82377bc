"""What the ranks of test_checkpoint_layouts.py do."""

import os
from pathlib import Path
from typing import Any

import torch
from tiny_policy import (
    CONFIG,
    MOE_CONFIG,
    SINKS_CONFIG,
    learner_at,
    make_batches,
    weights_of,
)

from megatron_rl.conversion.families import model_spec
from megatron_rl.model_spec import ModelSpec

NUM_BATCHES, SAVED_AT = 3, 2
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {}),
    "dp2": (2, {}),
    "tp2": (2, {"tp": 2}),
    "tp2+sp": (2, {"tp": 2, "sp": True}),
    "pp2": (2, {"pp": 2}),
    "cp2": (2, {"cp": 2}),
    "ep2": (2, {"ep": 2}),
    "pp2 x vp2": (2, {"pp": 2, "vpp": 2}),
    "tp2+sp+ep2, whole": (2, {"tp": 2, "sp": True, "ep": 2, "etp": 1}),
    "tp2+sp, whole": (2, {"tp": 2, "sp": True, "etp": 1}),
    "tp2+sp+ep2": (4, {"tp": 2, "sp": True, "ep": 2}),
    "tp2 x pp2": (4, {"tp": 2, "pp": 2}),
}
"""Number of ranks, and the layout."""


def work(argument: Any) -> dict[str, Any]:
    """Pass checkpoints from layout to layout, for a dense model and for mixtures of experts.

    Args:
        argument: {"ports": enough, "folder": of the checkpoints, "chains": layouts by model}.

    Returns:
        By model: one record of each layout, in order.
    """
    torch.set_num_threads(1)
    ports, root = iter(argument["ports"]), Path(argument["folder"])
    configs = {"dense": CONFIG, "moe": MOE_CONFIG, "sinks": SINKS_CONFIG}
    specs = {name: model_spec(config) for name, config in configs.items()}
    return {
        name: _pass_on(root / name, chain, specs[name], ports)
        for name, chain in argument["chains"].items()
    }


def _pass_on(root: Path, chain: list[str], spec: ModelSpec, ports: Any) -> list[Any]:
    """Train alone, then let each layout load what the one before wrote, write it, and go on."""
    batches, records, rank = make_batches(NUM_BATCHES), [], int(os.environ["RANK"])
    weights: dict[str, torch.Tensor] = {}
    continued: dict[str, torch.Tensor] = {}
    num_ranks = os.environ["WORLD_SIZE"]
    for index, (name, port) in enumerate(zip(["one", *chain], ports, strict=False)):
        size, layout = LAYOUTS[name]
        if rank >= size:
            continue
        os.environ["WORLD_SIZE"] = str(size)
        with learner_at(port=port, spec=spec, **layout) as learner:
            if index == 0:
                for batch in batches[:SAVED_AT]:
                    learner.update(batch)
                weights = weights_of(learner)
            else:
                assert learner.restore(root / str(index - 1)) == (SAVED_AT, {"by": index - 1})
            loaded = weights_of(learner)
            learner.save(root / str(index), SAVED_AT, extra={"by": index})
            metrics = [learner.update(batch) for batch in batches[SAVED_AT:]]
            after = weights_of(learner)
        os.environ["WORLD_SIZE"] = num_ranks
        if index == 0:
            continued = after
        if rank == 0:
            same = list(loaded) == list(weights)
            records.append(
                {
                    "layout": name,
                    "weights are equal": same and _are_equal(loaded, weights),
                    "goes on exactly": _are_equal(after, continued),
                    "largest difference after": max(
                        (after[key] - continued[key]).abs().max().item() for key in continued
                    ),
                    "losses": [record["policy/loss"] for record in metrics],
                }
            )
    return records


def _are_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(actual[name], expected[name]) for name in expected)
