"""Where a run's first weights come from."""

from pathlib import Path

from megatron_rl.config import RunConfig
from megatron_rl.run_dir import RunDir


def first_weights(config: RunConfig) -> Path | None:
    """Return the folder RL starts from: the cold start's export, the model, or None for random."""
    if config.sft is not None:
        return RunDir(config.run_dir).sft / "hf"
    return base_weights(config)


def base_weights(config: RunConfig) -> Path | None:
    """Return the folder of the untrained model's weights, None for random ones."""
    return None if config.model.init == "random" else config.model.path
