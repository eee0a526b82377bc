"""Hugging Face folders of random weights, from a config.json alone."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.families.shapes import tensor_shapes
from megatron_rl.hf_folder import random_tensor


def write_random_model(config: dict[str, Any], folder: Path) -> Path:
    """Write config.json and float32 weights; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    weights = {
        name: random_tensor(name, shape, std=0.1, seed=0)
        for name, shape in tensor_shapes(model_spec(config))
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
