"""What the ranks of test_invariance.py do: the same batches through one layout after another."""

from pathlib import Path
from typing import Any

from tiny_policy import MOE_CONFIG, learner_at, make_batches, weights_of, write_weights

from megatron_rl.conversion.families import ModelSpec, model_spec

NUM_STEPS = 4
LAYOUTS_OF_ONE: dict[str, dict[str, Any]] = {
    "one sequence a row": {"tp": 1, "token_budget": 1},
    "packed": {"tp": 1},
    "packed, tied": {"tp": 1, "tied": True},
    "two minibatches": {"tp": 1, "num_minibatches": 2},
    "clipping off": {"tp": 1, "clip_grad": 0.0},
}
LAYOUTS_OF_TWO: dict[str, dict[str, Any]] = {
    "dp2": {"tp": 1},
    "dp2, overlapped": {"tp": 1, "overlap_grad_reduce": True, "overlap_param_gather": True},
    "tp2": {"tp": 2},
    "tp2 + sp": {"tp": 2, "sp": True},
    "tp2, tied": {"tp": 2, "tied": True},
    "dp2, two minibatches": {"tp": 1, "num_minibatches": 2},
    "pp2": {"pp": 2},
    "pp2, tied": {"pp": 2, "tied": True},
    "cp2": {"cp": 2},
    "pp2 x vp2": {"pp": 2, "vpp": 2},
    "pp2, full recompute": {
        "pp": 2,
        "megatron": {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        },
    },
}
LAYOUTS_OF_FOUR: dict[str, dict[str, Any]] = {
    "tp2 x pp2 + sp": {"tp": 2, "pp": 2, "sp": True},
    "dp2 x pp2 x vp2": {"pp": 2, "vpp": 2},
    "cp4": {"cp": 4},
    "cp2 x tp2 + sp": {"cp": 2, "tp": 2, "sp": True},
    "cp2 x pp2": {"cp": 2, "pp": 2},
}


MIXTURE_OF_ONE: dict[str, dict[str, Any]] = {"alone": {}}
MIXTURE_OF_TWO: dict[str, dict[str, Any]] = {
    "dp2": {},
    "tp2 + sp": {"tp": 2, "sp": True},
    "pp2": {"pp": 2},
    "cp2": {"cp": 2},
    "ep2": {"ep": 2},
    "ep2, overlapped": {"ep": 2, "overlap_grad_reduce": True, "overlap_param_gather": True},
}
MIXTURE_OF_FOUR: dict[str, dict[str, Any]] = {
    # Not with etp = 2: its gathers are uneven, which gloo does not have (NCCL does).
    "ep2 x tp2 + sp": {"ep": 2, "tp": 2, "sp": True, "etp": 1},
    "ep2 x pp2": {"ep": 2, "pp": 2},
    "ep4": {"ep": 4},
}


def train_mixture_at_layouts(argument: Any) -> dict[str, list[dict[str, float]]]:
    """Like :func:`train_at_layouts`, with a mixture of experts."""
    return train_at_layouts(argument, spec=model_spec(MOE_CONFIG))


def train_at_layouts(
    argument: Any, *, spec: ModelSpec | None = None
) -> dict[str, list[dict[str, float]]]:
    """Train at each layout; return its metrics per batch, and leave weights in ``folder``.

    Args:
        argument: {"layouts": names to settings, "ports": one each, "folder": path}.
    """
    metrics = {}
    for (name, layout), port in zip(argument["layouts"].items(), argument["ports"], strict=True):
        layout = dict(layout)
        num_minibatches = layout.pop("num_minibatches", 1)
        batches = make_batches(NUM_STEPS, num_minibatches=num_minibatches)
        with learner_at(port=port, spec=spec, **layout) as learner:
            metrics[name] = [learner.update(batch) for batch in batches]
            write_weights(Path(argument["folder"]) / f"{name}.pt", weights_of(learner))
    return metrics
