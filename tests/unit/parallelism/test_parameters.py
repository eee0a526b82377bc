"""Parameter counts: by hand, of released models, and of the very models the learner builds."""

import dataclasses

import pytest
from released import DENSE, EXPERTS, LATENTS, MIXTURE, PLAIN_QUERIES, layout, released_model

from megatron_rl.parallelism.parameters import (
    attention_parameters,
    num_active_parameters,
    num_parameters,
    stage_layers,
    stage_parameters,
)


@pytest.mark.parametrize(
    ("name", "billions", "active"),
    [
        ("Llama-3.1-8B", 8.03, 8.03),
        ("Mistral-Small-24B", 23.57, 23.57),
        ("Llama-3.3-70B", 70.55, 70.55),
        ("Qwen3-30B-A3B", 30.53, 3.35),
    ],
)
def test_a_released_model_has_the_parameters_it_is_known_for(name, billions, active):
    model = released_model(name)
    assert round(num_parameters(model) / 1e9, 2) == billions
    assert round(num_active_parameters(model) / 1e9, 2) == active


def test_parameters_by_hand():
    # A layer: 72 attention, 72 feed-forward, 8 norms; embedding and output 40 each; last norm 4.
    assert num_parameters(DENSE) == 2 * 152 + 80 + 4
    assert num_parameters(dataclasses.replace(DENSE, is_tied=True)) == 2 * 152 + 40 + 4
    # Biases of 6 queries, 3 keys, 3 values; norms of 3 for queries and for keys.
    further = dataclasses.replace(DENSE, has_qkv_bias=True, has_qk_norm=True)
    assert num_parameters(further) == 2 * (152 + 12 + 6) + 80 + 4
    # Two more norms of 4.
    sandwich = dataclasses.replace(DENSE, has_sandwich_norms=True)
    assert num_parameters(sandwich) == 2 * (152 + 8) + 80 + 4
    # The second layer: router 16 and 4 experts of 60 in place of 72.
    mixture = MIXTURE
    assert num_parameters(mixture) == 152 + (152 - 72 + 16 + 240) + 80 + 4
    assert num_active_parameters(mixture) == num_parameters(mixture) - 120


def test_projections_to_latents_and_from_them_by_hand():
    # Down: 4 x 6 of queries, 4 x (7 + 2) of keys and values. Up: 6 x 2 x 5 of queries, 7 x 2 x
    # (3 + 4) of keys and values; output 2 x 4 x 4. Norms: two of 4, and of the latents.
    attention = attention_parameters(LATENTS)
    assert (attention.whole, attention.cut) == (24 + 36, 60 + 98 + 32)
    assert num_parameters(LATENTS) - num_parameters(MIXTURE) == 2 * (250 + 6 + 7 - 72)
    # Queries from the token itself: 4 x 2 x 5.
    plain = attention_parameters(PLAIN_QUERIES)
    assert (plain.whole, plain.cut) == (36, 40 + 98 + 32)
    assert num_parameters(PLAIN_QUERIES) - num_parameters(MIXTURE) == 2 * (206 + 7 - 72)


def test_biases_and_sinks_by_hand():
    biased = dataclasses.replace(
        MIXTURE,
        moe=dataclasses.replace(EXPERTS, layers=(True, True)),
        has_qkv_bias=True,
        has_linear_biases=True,
        has_sinks=True,
    )
    plain = dataclasses.replace(
        biased, has_qkv_bias=False, has_linear_biases=False, has_sinks=False
    )
    # A layer: 6 + 2 x 3 of queries, keys, values, 4 of attention's output, 2 sinks, 4 of the
    # router, and 2 x 5 + 4 of each of 4 experts, of which a token takes 2.
    assert num_parameters(biased) == num_parameters(plain) + 2 * (12 + 4 + 2 + 4 + 4 * 14)
    assert num_parameters(biased) - num_active_parameters(biased) == 2 * 2 * (60 + 14)
    # Biases of queries, keys and values, and sinks, are cut in two; experts lie on two ranks.
    cut = layout(tp=2, sp=True, ep=2)
    here, there = (stage_parameters(model, cut, 0).on_rank(cut) for model in (biased, plain))
    assert here == (there[0] + 2 * (12 // 2 + 2 // 2 + 4 + 4), there[1] + 2 * 2 * 14)


def test_what_a_rank_holds_by_hand():
    mixture = dataclasses.replace(MIXTURE, vocab_size=9)
    # First stage: 144 + padded vocabulary 10 x 4 cut in two, norms 8 whole. Second: attention 72 +
    # 40 cut in two, norms 8 + 4 and router 16 whole, 240 of experts on 2 x 1 ranks.
    cut = layout(tp=2, sp=True, pp=2, ep=2)
    assert stage_parameters(mixture, cut, 0).on_rank(cut) == (92 + 8, 0)
    assert stage_parameters(mixture, cut, 1).on_rank(cut) == (56 + 28, 120)


def test_the_last_of_several_stages_has_its_own_tied_embedding():
    tied = dataclasses.replace(DENSE, is_tied=True)
    two = layout(pp=2)
    assert [stage_parameters(tied, two, stage).total for stage in (0, 1)] == [192, 196]


def test_interleaved_chunks_take_turns():
    eight = dataclasses.replace(DENSE, num_layers=8)
    assert stage_layers(eight, layout(pp=2, vpp=2), 0) == [0, 1, 4, 5]
    assert stage_layers(eight, layout(pp=2, vpp=2), 1) == [2, 3, 6, 7]
