"""NaN on one rank makes all ranks skip the step, and all take the next."""

import pytest
from ranks import free_port, run_on_ranks

pytestmark = pytest.mark.distributed

LAYOUTS = {
    "dp2": {},
    "dp2, overlapped": {"overlap_grad_reduce": True, "overlap_param_gather": True},
    "tp2 + sp": {"tp": 2, "sp": True},
    "pp2": {"pp": 2},
}


@pytest.fixture(scope="module")
def outcomes():
    argument = {"layouts": LAYOUTS, "ports": [free_port() for _ in LAYOUTS]}
    return run_on_ranks("skipped_ranks:train_around_a_broken_batch", argument, num_ranks=2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_ranks_skip_the_step_and_take_the_next(layout, outcomes):
    outcome = outcomes[layout]
    assert outcome["skipped"] == [1, 1]
    assert outcome["is unchanged"]
    assert outcome["skipped last"] == 0
    assert outcome["moved on"]


def test_experts_that_overflow_alone_halve_the_one_scale_of_the_loss():
    argument = {"port": free_port()}
    scales = run_on_ranks("skipped_ranks:overflow_in_experts_alone", argument, num_ranks=2)
    assert scales == {
        "step": [65536, 65536],
        "overflow": [32768, 32768],
        "next step": [32768, 32768],
    }
