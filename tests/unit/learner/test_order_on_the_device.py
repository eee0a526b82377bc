"""What the learner does in the order that CUDA needs, seen on a device that does it all late."""

from types import SimpleNamespace

import pytest
import torch

from megatron_rl.conversion.families import model_spec
from megatron_rl.learner import learner as learners
from megatron_rl.learner.learner import Learner
from tests.distributed.tiny_policy import CONFIG, SEED, make_batches, settings
from tests.late_device import LateDevice


@pytest.fixture
def device(platform) -> LateDevice:
    return LateDevice()


@pytest.fixture
def learner(device, parallel) -> Learner:
    spec = model_spec(CONFIG)
    return Learner(spec, settings(), parallel, device, pretrained=None, seed=SEED)


def test_a_checkpoint_in_the_background_holds_what_was_copied_and_not_what_came_after(
    learner, device, parallel, tmp_path
):
    """Its buffers hold NaN until the copies are waited for, and training changes the weights."""
    (batch,) = make_batches(1)
    learner.update_supervised(batch.sequences)
    saved = {name: weight.clone() for name, weight in learner.named_weights()}
    learner.start_saving(tmp_path, 1, extra={})
    num_copies = [what for what, _ in device.events].count("start_copy")
    learner.update_supervised(batch.sequences)
    assert learner.finish_saving(wait=True).step == 1
    assert num_copies > 0
    again = Learner(
        model_spec(CONFIG), settings(), parallel, LateDevice(), pretrained=None, seed=SEED + 1
    )
    assert again.restore(tmp_path) == (1, {})
    for name, weight in again.named_weights():
        assert torch.equal(weight, saved[name]), name


@pytest.mark.parametrize(
    ("update", "rate"),
    [
        (Learner.update, "learner/tokens_per_s"),
        (lambda learner, batch: learner.update_supervised(batch.sequences), "sft/tokens_per_s"),
    ],
)
def test_the_time_of_an_update_holds_the_optimiser_step_that_is_only_asked_for(
    learner, device, monkeypatch, update, rate
):
    (batch,) = make_batches(1)
    take_step, hours = learner._optimizer.step_with_ready_grads, []

    def ask_for_step() -> bool:
        device.ask(lambda: hours.append(3600.0))
        return take_step()

    learner._optimizer.step_with_ready_grads = ask_for_step
    monkeypatch.setattr(learners, "time", SimpleNamespace(monotonic=lambda: sum(hours)))
    metrics = update(learner, batch)
    assert metrics[rate] == pytest.approx(float(batch.sequences.offsets[-1]) / 3600)
