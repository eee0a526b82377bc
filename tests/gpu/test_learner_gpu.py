"""The learner on a GPU: NCCL, CUDA, and Transformer Engine's layers where it is installed."""

import pytest
import torch

from megatron_rl.programs.gpu_stages.learning.policy import TEMPERATURE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def logprobs_on_the_host(model, sequences):
    results = []
    for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        ids = torch.from_numpy(sequences.token_ids_T[start:end])
        with torch.no_grad():
            scores = torch.log_softmax(model(ids[None]).logits[0, :-1] / TEMPERATURE, dim=-1)
        results.append(scores.gather(1, ids[1:, None])[:, 0])
    return torch.cat(results)


def test_bf16_logprobs_are_close_to_float32_ones_of_the_host(make_learner, model, sequences):
    actual = torch.cat(make_learner().logprobs(sequences))
    difference = (actual - logprobs_on_the_host(model, sequences)).abs()
    # bf16 keeps 8 bits: logits of order 3 are off by about 1 % after four layers. A wrong weight,
    # position or mask is off by more than 1 in most places.
    assert difference.mean() < 0.05
    assert difference.max() < 0.5


def test_training_lowers_the_loss_and_moves_every_weight(make_learner, sequences):
    learner = make_learner()
    before = {name: weight.clone() for name, weight in learner.named_weights()}
    losses = [learner.update_supervised(sequences)["sft/loss"] for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1
    # Norms start at one, where bf16's spacing may swallow a small step.
    stuck = [
        name
        for name, weight in learner.named_weights()
        if weight.dim() > 1 and torch.equal(weight, before[name])
    ]
    assert stuck == []


def test_a_checkpoint_continues_bit_for_bit(make_learner, sequences, tmp_path):
    learner = make_learner()
    learner.update_supervised(sequences)
    learner.save(tmp_path / "checkpoints", 1, extra={"cursor": 5})
    saved = {name: weight.clone() for name, weight in learner.named_weights()}
    again = make_learner()
    assert again.restore(tmp_path / "checkpoints") == (1, {"cursor": 5})
    for name, weight in again.named_weights():
        assert torch.equal(weight, saved[name]), name
