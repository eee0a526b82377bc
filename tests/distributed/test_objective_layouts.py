"""Sequence ratios, corrections, KL and entropy are the same however a batch is cut over ranks."""

import pytest
import torch
from objective_ranks import OBJECTIVE
from ranks import free_port, run_on_ranks

pytestmark = pytest.mark.distributed

LAYOUTS_OF_ONE = {"packed": {}, "one sequence a row": {"token_budget": 1}}
LAYOUTS_OF_TWO = {
    "dp2": {},
    "dp2, overlapped": {"overlap_grad_reduce": True, "overlap_param_gather": True},
    "tp2 + sp": {"tp": 2, "sp": True},
    "cp2": {"cp": 2},
    "pp2": {"pp": 2},
    "pp2 x vp2": {"pp": 2, "vpp": 2},
}
COMPARED = (
    "policy/loss",
    "policy/grad_norm",
    "policy/entropy",
    "policy/clip_fraction",
    "policy/approx_kl",
    "policy/logprob_difference",
    "policy/ratio_mean",
    "policy/ratio_max",
    "policy/reference_kl",
    "correction/weight_mean",
    "correction/changed_fraction",
    "correction/ratio_max",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(metrics per batch, weights) of every layout."""
    folder = tmp_path_factory.mktemp("weights")
    metrics = {}
    for num_ranks, layouts in ((1, LAYOUTS_OF_ONE), (2, LAYOUTS_OF_TWO)):
        argument = {
            "layouts": layouts,
            "ports": [free_port() for _ in layouts],
            "folder": str(folder),
        }
        metrics |= run_on_ranks(
            "objective_ranks:train_at_layouts", argument, num_ranks=num_ranks, timeout_s=120
        )
    return {name: (metrics[name], torch.load(folder / f"{name}.pt")) for name in metrics}


@pytest.mark.parametrize("name", ["one sequence a row", *LAYOUTS_OF_TWO])
def test_every_layout_takes_the_steps_of_one_rank(name, trained):
    (metrics, weights), (expected_metrics, expected_weights) = trained[name], trained["packed"]
    for actual, expected in zip(metrics, expected_metrics, strict=True):
        for key in COMPARED:
            assert actual[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5), key
    for key, weight in expected_weights.items():
        assert (weights[key] - weight).norm() / weight.norm() < 1e-5, key


def test_the_batches_exercise_every_part(trained):
    metrics, _ = trained["packed"]
    for record in metrics:
        assert 0 < record["policy/clip_fraction"] < 1
        assert 0 < record["correction/changed_fraction"] < 1
        assert record["correction/ratio_max"] > OBJECTIVE.correction.high
    assert metrics[-1]["policy/reference_kl"] > 1e-4
