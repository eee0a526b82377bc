"""Memory of a layout: by hand for a small model, and monotonous in what it should be."""

import dataclasses

import pytest
from released import DENSE, LATENTS, MIXTURE, PLAIN_QUERIES, layout, released_model

from megatron_rl.parallelism.memory import estimate_memory, layer_activations


def estimate(model, cut, **changes):
    usual = {
        "world_size": 1,
        "precision": "bf16",
        "token_budget": 8,
        "chunk_tokens": 2,
        "is_recomputed": False,
        "has_reference": False,
        "has_fp32_head": False,
    }
    return estimate_memory(model, cut, **(usual | changes))


def test_one_gpu_by_hand():
    memory = estimate(DENSE, layout(), has_reference=True)
    # 388 parameters: bfloat16, float32 gradients, float32 weights and two moments.
    assert (memory.weights, memory.reference, memory.gradients) == (776, 776, 1552)
    assert memory.optimizer == 388 * 12
    # A token in a layer: 4 x 4 residual; 6 queries, 3 keys, 3 values, 6 + 3 rotated, 6 result;
    # 3 x 6 feed-forward: 61. Two layers, gradients of one; the head 4 x 4. 8 tokens, 2 bytes.
    assert memory.activations == (3 * 61 + 16) * 8 * 2
    # 2 tokens x 10 entries x (4 + 4 + 2), and 10 x 4 weights x (4 + 2).
    assert memory.logits == 200 + 240
    assert memory.total == sum(dataclasses.astuple(memory))


def test_activations_of_latent_attention_by_hand():
    # In place of 6 + 3 + 3 + 9 + 6: latents of 6 and 7 twice, 2 of the rotated key; of 2 heads the
    # query of 5 twice and its 2 rotated, 3 + 4 as projected, the key of 5, the value of 4, the
    # result of 4.
    added = (6 + 7) * 2 + 2 + 2 * (12 + 7 + 9 + 4) - 27
    assert layer_activations(LATENTS, layout(), 0, tokens=1) == 61 + added
    assert layer_activations(PLAIN_QUERIES, layout(), 0, tokens=1) == 61 + added - 12
    # Latents are cut with the tokens of sequence parallelism, heads with tensor parallelism.
    cut = layout(tp=2, sp=True)
    whole = layer_activations(LATENTS, layout(), 0, tokens=8)
    assert layer_activations(LATENTS, cut, 0, tokens=8) == whole // 2


def test_an_output_layer_in_float32_is_copied():
    memory = estimate(DENSE, layout(), has_fp32_head=True)
    # Gradients of logits are multiplied in float32, and the 10 x 4 weights are copied to it.
    assert memory.logits == 2 * 10 * (4 + 4 + 4) + 40 * (4 + 2 + 4)
    exact = estimate(DENSE, layout(), precision="fp32")
    assert estimate(DENSE, layout(), precision="fp32", has_fp32_head=True) == exact


def test_chunks_of_logits_are_sized_for_a_gpu_unless_given():
    model = released_model("Llama-3.1-8B")
    sizes = {"token_budget": 131072, "world_size": 8}
    whole = estimate(model, layout(), chunk_tokens=None, **sizes)
    # 512 MiB of float32 log-probs, their gradient, and that in bfloat16; the output layer.
    chunk = 2**29 // (4 * 128256)
    assert whole.logits == chunk * 128256 * 10 + 128256 * 4096 * 6
    cut = estimate(model, layout(tp=8), chunk_tokens=None, **sizes)
    assert cut.logits == pytest.approx(2**29 * 2.5 + 128256 * 4096 * 6 / 8, rel=1e-3)


def test_float32_has_no_second_copy_of_the_weights():
    memory = estimate(DENSE, layout(), precision="fp32")
    assert (memory.weights, memory.optimizer) == (388 * 4, 388 * 8)


def test_full_recomputation_keeps_the_input_of_each_layer():
    memory = estimate(DENSE, layout(), is_recomputed=True)
    # One layer again and its gradients; two inputs of 4.
    assert memory.activations == (2 * 61 + 2 * 4 + 16) * 8 * 2


def test_the_optimizer_is_sharded_over_data_and_context_parallel_ranks():
    assert estimate(DENSE, layout(cp=2), world_size=4).optimizer == 388 * 12 // 4


def test_experts_are_sharded_over_the_ranks_that_hold_the_same_ones():
    mixture = MIXTURE
    memory = estimate(mixture, layout(ep=2), world_size=4)
    # 332 parameters outside experts on 4 ranks; 240 of experts: 120 a rank, each on 2 ranks.
    assert memory.weights == (332 + 120) * 2
    assert memory.optimizer == (332 // 4 + 120 // 2) * 12


def test_the_first_stage_waits_with_as_many_rows_as_there_are_stages():
    deep = dataclasses.replace(DENSE, vocab_size=1, num_layers=4)
    # 4 layers in 2 stages: 2 rows x 2 layers, and the gradients of one layer.
    assert estimate(deep, layout(pp=2), world_size=2).activations == (4 + 1) * 61 * 8 * 2
    # Interleaved: 4 passes of chunks of one layer: 2 x 1 behind, 1 x 2 for the second chunk, 1.
    interleaved = estimate(deep, layout(pp=2, vpp=2), world_size=2)
    assert interleaved.activations == (2 * 5 // 2 + 1) * 61 * 8 * 2


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen3-30B-A3B"])
@pytest.mark.parametrize(
    "changes", [{"tp": 2, "sp": True}, {"tp": 4, "sp": True}, {"pp": 2}, {"cp": 2}]
)
def test_cutting_the_model_takes_less_memory(name, changes):
    model = released_model(name)
    sizes = {"world_size": 8, "token_budget": 8192, "chunk_tokens": 256}
    whole = estimate(model, layout(), **sizes)
    assert estimate(model, layout(**changes), **sizes).total < whole.total


def test_activations_of_a_released_layer_are_the_known_multiple_of_its_width():
    # Llama 3.1 8B, bytes a token and layer: 2 x (4 x 4096 + 3 x (4096 + 1024) + 3 x 14336)
    # = 149504 = 36.5 x 4096; 34 x 4096 is the count for a GPT without attention scores
    # (arXiv:2205.05198).
    one = released_model("Llama-3.1-8B")
    one = dataclasses.replace(one, num_layers=1)
    two = dataclasses.replace(one, num_layers=2)
    sizes = {"token_budget": 1024}
    added = (
        estimate(two, layout(), **sizes).activations - estimate(one, layout(), **sizes).activations
    )
    assert added == 1024 * 149504
