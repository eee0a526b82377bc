"""What the ranks of test_conversion.py do: save one model from several layouts."""

import os
from pathlib import Path
from typing import Any

import torch
from tiny_policy import CONFIG, MOE_CONFIG, learner_at, make_batches, weights_of

from megatron_rl.conversion.families import model_spec
from megatron_rl.run_dir import write_json


def save_on_two_ranks(argument: Any) -> list[str]:
    """Train one step and save it, as a run folder with a model folder, at each layout.

    Args:
        argument: {"layouts": names to settings, "ports": one each, "folder": path}; a layout with
            "ep" is of the mixture of experts.
    """
    folder = Path(argument["folder"])
    for (name, layout), port in zip(argument["layouts"].items(), argument["ports"], strict=True):
        config = MOE_CONFIG if "ep" in layout else CONFIG
        with learner_at(port=port, spec=model_spec(config), **layout) as learner:
            (batch,) = make_batches(1)
            learner.update(batch)
            learner.save(folder / name / "checkpoints", 1, extra={})
            weights = weights_of(learner)
        if os.environ["RANK"] == "0":
            torch.save(weights, folder / name / "expected.pt")
            write_json(folder / name / "model" / "config.json", config)
            run = {
                "run_dir": str(folder / name),
                "num_steps": 1,
                "model": {"path": str(folder / name / "model")},
                "data": {"train": "none.jsonl"},
            }
            write_json(folder / name / "config.json", run)
    return list(argument["layouts"])
