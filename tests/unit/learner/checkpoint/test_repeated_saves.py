"""From the third save on nothing is planned anew; what is written is the state at that time."""

import pytest
import torch

from megatron_rl.conversion.families import model_spec
from megatron_rl.learner.learner import Learner
from tests.distributed.tiny_policy import CONFIG, MOE_CONFIG, SEED, make_batches, settings

pytestmark = pytest.mark.lengthy


@pytest.mark.parametrize("config", [CONFIG, MOE_CONFIG])
@pytest.mark.parametrize("in_background", [False, True])
def test_every_checkpoint_holds_its_own_step(config, in_background, parallel, platform, tmp_path):
    def build():
        spec = model_spec(config)
        return Learner(spec, settings(), parallel, platform, pretrained=None, seed=SEED)

    learner, (batch,) = build(), make_batches(1)
    for step in range(1, 5):
        learner.update_supervised(batch.sequences)
        if in_background:
            learner.start_saving(tmp_path, step, extra={"step": step})
            assert learner.finish_saving(wait=True).step == step
        else:
            learner.save(tmp_path, step, extra={"step": step})
    saved = {name: weight.clone() for name, weight in learner.named_weights()}
    drawn = torch.rand(2)
    again = build()
    assert again.restore(tmp_path) == (4, {"step": 4})
    assert torch.equal(torch.rand(2), drawn)  # generators were saved after the last step
    assert all(torch.equal(weight, saved[name]) for name, weight in again.named_weights())
    # Both go on alike: moments and their step count are those of the last save.
    metrics = [one.update_supervised(batch.sequences) for one in (learner, again)]
    assert metrics[0]["sft/loss"] == metrics[1]["sft/loss"]
    for (name, mine), (_, theirs) in zip(
        learner.named_weights(), again.named_weights(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_a_checkpoint_of_an_earlier_version_restores_the_generator_it_has(
    parallel, platform, tmp_path, monkeypatch
):
    spec = model_spec(CONFIG)
    learner = Learner(spec, settings(), parallel, platform, pretrained=None, seed=SEED)
    (batch,) = make_batches(1)
    learner.update_supervised(batch.sequences)
    monkeypatch.setattr(type(platform), "generator_states", lambda _: torch.get_rng_state())
    learner.save(tmp_path, 1, extra={})
    drawn = torch.rand(2)
    assert learner.restore(tmp_path) == (1, {})
    assert torch.equal(torch.rand(2), drawn)
