"""learner.deterministic reaches every rank before it touches a GPU, whoever has started it."""

import json

import pytest
import torch

from megatron_rl.config import resolve
from megatron_rl.errors import ConfigError
from megatron_rl.learner.model.overrides import check_overrides
from megatron_rl.programs.builders import learner as builders
from tests.distributed.tiny_policy import CONFIG


class LookedForGpus(Exception):
    """Raised in place of looking."""


@pytest.mark.parametrize("is_wanted", [True, False])
def test_the_environment_is_set_before_a_gpu_is_looked_for(is_wanted, tmp_path, monkeypatch):
    environment: dict[str, str] = {}

    def look(**_: object) -> None:
        raise LookedForGpus

    monkeypatch.setattr(builders.os, "environ", environment)
    monkeypatch.setattr(builders, "detect_platform", look)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    config = resolve(
        {
            "run_dir": str(tmp_path / "run"),
            "num_steps": 1,
            "model": {"path": str(model)},
            "data": {"train": "train.jsonl"},
            "learner": {"deterministic": is_wanted},
        }
    )
    try:
        with pytest.raises(LookedForGpus):
            builders.open_learner(
                config,
                config.learner.optimizer,
                objective=None,
                pretrained=None,
                temperature=1.0,
                total_steps=1,
            )
        assert torch.are_deterministic_algorithms_enabled() == is_wanted
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True
    assert ("NVTE_ALLOW_NONDETERMINISTIC_ALGO" in environment) == is_wanted
    settings = builders._settings(config, config.learner.optimizer, None, 1.0, 1, 0)
    assert settings.megatron == ({"deterministic_mode": True} if is_wanted else {})


def test_megatrons_own_field_is_refused_by_the_name_of_ours():
    with pytest.raises(ConfigError, match=r"deterministic_mode is set by learner\.deterministic"):
        check_overrides({"deterministic_mode": True})
