"""A checkpoint of any layout loads at any other: weights and moments exactly, losses to 1e-6."""

import pytest
from ranks import free_port, run_on_ranks

pytestmark = pytest.mark.distributed

THERE_DENSE = ["tp2", "pp2 x vp2", "pp2", "dp2", "cp2", "tp2 x pp2", "one"]
THERE_MOE = [
    *("ep2", "tp2+sp+ep2", "pp2", "tp2+sp", "tp2+sp, whole", "tp2+sp+ep2, whole"),
    *("pp2 x vp2", "one"),
]
THERE_SINKS = ["ep2", "pp2", "tp2+sp, whole", "one"]
# Each layout reads what the one before it wrote; the dense ones there and back, so that every pair
# of neighbours is met in both directions.
CHAINS = {
    "dense": THERE_DENSE + THERE_DENSE[-2::-1] + ["one"],
    "moe": THERE_MOE,
    "sinks": THERE_SINKS,
}
STEPS = [(model, index) for model, chain in CHAINS.items() for index in range(1, len(chain) + 1)]
NAMES = [
    f"{model}: {(['one', *CHAINS[model]])[i - 1]} to {CHAINS[model][i - 1]}" for model, i in STEPS
]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What the chains of layouts saw."""
    folder = tmp_path_factory.mktemp("checkpoints")
    ports = [free_port() for _ in range(len(STEPS) + len(CHAINS))]
    return run_on_ranks(
        "checkpoint_layouts_ranks:work",
        {"ports": ports, "folder": str(folder), "chains": CHAINS},
        num_ranks=4,
    )


@pytest.mark.parametrize(("model", "index"), STEPS, ids=NAMES)
def test_a_layout_goes_on_from_what_another_wrote(outcome, model, index):
    first, record = outcome[model][0], outcome[model][index]
    assert record["layout"] == CHAINS[model][index - 1]
    assert record["weights are equal"]
    assert record["losses"] == pytest.approx(first["losses"], abs=1e-6)


@pytest.mark.parametrize("model", CHAINS)
def test_one_process_goes_on_bit_for_bit_after_every_other_layout_has_held_the_state(
    outcome, model
):
    # Weights, both moments, their step count and the schedule all came through unchanged.
    at_one = [record for record in outcome[model] if record["layout"] == "one"]
    assert len(at_one) >= 2
    assert all(record["goes on exactly"] for record in at_one)
