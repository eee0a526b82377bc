"""Whole weights come out of any layout, bit for bit, in one order, and in bounded memory."""

import pytest
from ranks import run_on_ranks
from tiny_policy import CONFIG, MOE_CONFIG

from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.families.shapes import tensor_shapes
from tests.random_model import write_random_model

pytestmark = pytest.mark.distributed

ONE_BY_ONE, SMALL, EVERYTHING = 1, 20_000, 10**9
TIED = CONFIG | {"tie_word_embeddings": True}
STACKED = CONFIG | {"model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2}
LAYOUTS = {
    "tp2 pp2": (TIED, {"tp": 2, "pp": 2, "etp": 2}),
    "ep2 pp2": (MOE_CONFIG, {"ep": 2, "pp": 2, "etp": 1}),
    "ep2 etp2": (MOE_CONFIG, {"tp": 2, "ep": 2, "etp": 2}),
    "ep2 tp2": (MOE_CONFIG, {"tp": 2, "ep": 2, "etp": 1}),
    "ep2 pp2, stacked experts": (STACKED, {"ep": 2, "pp": 2, "etp": 1}),
    "ep2 tp2, stacked experts": (STACKED, {"tp": 2, "ep": 2, "etp": 1}),
}
NUM_RANKS = {layout: 2 if "ep2 tp2" in layout else 4 for layout in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_gets_the_same_weights_in_the_same_order_whatever_the_batch(layout, tmp_path):
    config, sizes = LAYOUTS[layout]
    folder = write_random_model(config, tmp_path)
    outcome = run_on_ranks(
        "weight_stream_ranks:stream",
        {"folder": str(folder), "layout": sizes, "batches": [ONE_BY_ONE, SMALL, EVERYTHING]},
        num_ranks=NUM_RANKS[layout],
    )
    for result in outcome.values():
        assert result["wrong"] == []
        assert result["names"] == [name for name, _ in tensor_shapes(model_spec(config))]
    one_by_one, small, everything = (
        outcome[str(size)]["collectives"] for size in (ONE_BY_ONE, SMALL, EVERYTHING)
    )
    # In one batch: the exchange of who has what (2), and for each of at most 2 stages x (dense + 2
    # expert-parallel ranks) a gather and two broadcasts.
    assert 0 < everything <= 2 + 2 * 3 * 3
    assert everything < small < one_by_one


def test_memory_is_bounded_by_the_batch_and_not_by_the_model():
    config = MOE_CONFIG | {"hidden_size": 256, "moe_intermediate_size": 256, "num_experts": 16}
    batch_bytes = 4 * 2**20
    outcome = run_on_ranks(
        "weight_stream_ranks:peak",
        {"config": config, "layout": {"tp": 2, "ep": 2, "etp": 1}, "batch_bytes": batch_bytes},
        num_ranks=2,
    )
    # 4 layers x 16 experts x 3 matrices of 256 x 256 float32, and little else
    assert outcome["total"] > 50_000_000
    slack = 2 * 2**20  # whatever else the process allocates
    assert outcome["held"] < 3 * batch_bytes + slack
