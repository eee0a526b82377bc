"""Tensor parallelism is refused, with a remedy, where it does not cut the model evenly."""

import pytest

from megatron_rl.errors import ConfigError
from megatron_rl.planning.layouts import check_tensor_parallel

MODEL = {"num_heads": 16, "num_groups": 8, "ffn_size": 3072}


@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_even_cuts_are_accepted(tp_size):
    check_tensor_parallel(tp_size=tp_size, **MODEL)


def test_the_refusal_names_what_is_not_divided_and_the_nearest_legal_sizes():
    with pytest.raises(ConfigError) as caught:
        check_tensor_parallel(tp_size=3, num_heads=16, num_groups=8, ffn_size=3072)
    # 3 divides 3072, so only heads are to blame; 2 and 4 are the nearest that divide all three.
    assert str(caught.value) == (
        "learner.parallel.tp (3) does not divide the model's attention heads (16) and "
        "key/value heads (8); nearest legal: tp=2, tp=4"
    )


def test_more_ranks_than_key_value_heads_are_refused():
    with pytest.raises(ConfigError, match=r"key/value heads \(8\); nearest legal: tp=4, tp=8"):
        check_tensor_parallel(tp_size=16, **MODEL)


def test_a_model_that_cannot_be_cut_is_told_tp_1():
    with pytest.raises(ConfigError, match=r"nearest legal: tp=1$"):
        check_tensor_parallel(tp_size=2, num_heads=7, num_groups=1, ffn_size=64)
