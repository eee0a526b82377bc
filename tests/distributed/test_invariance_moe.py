"""A mixture of experts takes the same steps however experts, tokens and layers are spread."""

import pytest
import torch
from invariance_ranks import MIXTURE_OF_FOUR, MIXTURE_OF_ONE, MIXTURE_OF_TWO
from ranks import free_port, run_on_ranks
from test_invariance import COMPARED

pytestmark = pytest.mark.distributed

LAUNCHES = ((1, MIXTURE_OF_ONE), (2, MIXTURE_OF_TWO), (4, MIXTURE_OF_FOUR))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(metrics per batch, weights) of every layout, from one launch per number of ranks."""
    folder = tmp_path_factory.mktemp("weights")
    metrics = {}
    for num_ranks, layouts in LAUNCHES:
        argument = {
            "layouts": layouts,
            "ports": [free_port() for _ in layouts],
            "folder": str(folder),
        }
        metrics |= run_on_ranks(
            "invariance_ranks:train_mixture_at_layouts",
            argument,
            num_ranks=num_ranks,
            timeout_s=150,
        )
    return {name: (metrics[name], torch.load(folder / f"{name}.pt")) for name in metrics}


@pytest.mark.parametrize("name", [*MIXTURE_OF_TWO, *MIXTURE_OF_FOUR])
def test_every_layout_takes_the_steps_of_one_process(name, trained):
    metrics, weights = trained[name]
    expected_metrics, expected_weights = trained["alone"]
    for actual, expected in zip(metrics, expected_metrics, strict=True):
        for key in COMPARED:
            assert actual[key] == pytest.approx(expected[key], rel=2e-5, abs=2e-6), key
    assert list(weights) == list(expected_weights)
    for key, weight in expected_weights.items():
        difference = (weights[key] - weight).norm() / weight.norm()
        assert difference < 1e-5, key
