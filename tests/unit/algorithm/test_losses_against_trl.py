"""Losses, gradients and corrections against numbers of trl's GRPOTrainer, run once and recorded."""

import json
from pathlib import Path

import pytest
import torch

from tests.unit.algorithm.objectives import Completions, loss_of_rows

RECORDED = json.loads((Path(__file__).parent / "trl_losses.json").read_text())


def completions() -> Completions:
    def tensor(name: str) -> torch.Tensor:
        return torch.tensor(RECORDED[name], dtype=torch.float64)

    return Completions(
        lengths=RECORDED["lengths"],
        groups=[0, 0, 1, 1],
        advantages_N=tensor("advantages"),
        logprobs_T=tensor("current"),
        old_logprobs_T=tensor("old"),
        behavior_logprobs_T=tensor("behavior"),
        reference_logprobs_T=tensor("reference"),
        entropy_T=tensor("entropy"),
        max_tokens=RECORDED["max_tokens"],
    )


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["name"])
def test_loss_and_gradient_are_those_of_trl(case):
    rows = [[2, 0], [3, 1]]
    loss, gradient_T, metrics = loss_of_rows(completions(), rows, prompt=2, **case["algorithm"])
    # Token weights are float32.
    assert loss == pytest.approx(case["loss"], rel=1e-6)
    expected_T = torch.tensor(case["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient_T, expected_T, rtol=1e-6, atol=1e-8)
    if case["kl"] is not None:
        # trl's is the mean over all tokens, ours is weighted as the loss is (per sequence here).
        assert metrics["policy/reference_kl"] > 0
