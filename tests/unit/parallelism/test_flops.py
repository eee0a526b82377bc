"""FLOPs of a sequence, by hand for a small model and from the usual formula for a large one."""

import dataclasses

import numpy as np
import pytest
from released import DENSE, LATENTS, MIXTURE, released_model

from megatron_rl.model_spec import SlidingWindow
from megatron_rl.parallelism.flops import attention_pairs, multiplying_parameters, training_flops


def test_parameters_that_multiply_by_hand():
    # Attention: 4 x 6 queries, 2 x (4 x 3) keys and values, 6 x 4 output = 72; feed-forward:
    # 3 x 4 x 6 = 72; two layers and the output 10 x 4.
    assert multiplying_parameters(DENSE) == 2 * (72 + 72) + 40


def test_of_a_mixture_only_the_chosen_experts_multiply():
    mixture = MIXTURE
    # Second layer: router 4 x 4 and 2 experts of 3 x 4 x 5.
    assert multiplying_parameters(mixture) == (72 + 72) + (72 + 16 + 120) + 40


@pytest.mark.parametrize(
    ("length", "window", "pairs"),
    [
        (4, None, 10),  # 1 + 2 + 3 + 4
        (4, 2, 7),  # 1 + 2 + 2 + 2
        (4, 4, 10),
        (1, 4, 1),
        (0, 4, 0),
    ],
)
def test_pairs_of_query_and_key_by_hand(length, window, pairs):
    assert attention_pairs([length], window).tolist() == [pairs]


def test_flops_of_a_sequence_by_hand():
    # 6 x 328 x 4 tokens; two layers of 10 pairs, 12 FLOPs each over 2 heads of 3.
    assert training_flops([4], DENSE).tolist() == [6 * 328 * 4 + 2 * 12 * 6 * 10]


def test_latent_attention_weighs_values_that_are_narrower_than_keys():
    # Attention multiplies with 250 parameters. Two layers of 10 pairs, 6 FLOPs each over 2 heads of
    # 5 and as many over their values of 4.
    multiplying = (250 + 72) + (250 + 16 + 120) + 40
    assert multiplying_parameters(LATENTS) == multiplying
    assert training_flops([4], LATENTS).tolist() == [6 * multiplying * 4 + 2 * 6 * 2 * (5 + 4) * 10]


def test_a_sliding_window_counts_in_its_layers_only():
    sliding = dataclasses.replace(DENSE, window=SlidingWindow(size=2, layers=(True, False)))
    assert training_flops([4], sliding).tolist() == [6 * 328 * 4 + 12 * 6 * (7 + 10)]


def test_a_released_model_costs_six_flops_a_parameter_and_attention():
    model = released_model("Llama-3.1-8B")
    lengths = np.array([1024, 131072])
    # 8.03e9 parameters less the embedding of 0.525e9; causal attention: 6 l^2 x 32 layers x 4096.
    expected = 6 * 7.505e9 * lengths + 6.0 * lengths**2 * 32 * 4096
    assert training_flops(lengths, model) == pytest.approx(expected, rel=1e-3)
