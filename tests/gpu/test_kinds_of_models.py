"""Experts, sliding windows and float32 on a GPU, against transformers in float32 on the host."""

from types import SimpleNamespace

import pytest
import torch
import transformers

from megatron_rl.learner.hf_weights import ungrouped
from megatron_rl.programs.gpu_stages.learning.policy import TEMPERATURE, UNCLIPPED, learner_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
SIZES = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "initializer_range": 0.05,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
KINDS = {
    "dense": ("Qwen3", {}),
    "window": ("Mistral", {"sliding_window": 16}),  # shorter than most sequences
    "mixture": ("Qwen3Moe", EXPERTS | {"norm_topk_prob": True}),
}


@pytest.fixture(scope="module", params=KINDS)
def policy(request, platform, parallel, sequences, tmp_path_factory):
    """What a model on the host scores, and learners of its weights on the GPU."""
    torch.manual_seed(0)
    prefix, fields = KINDS[request.param]
    config = getattr(transformers, f"{prefix}Config")(**SIZES | fields)
    model = getattr(transformers, f"{prefix}ForCausalLM")(config).float().eval()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)

    def learner(**changes):
        return learner_of(folder, parallel, platform, **changes)

    return SimpleNamespace(kind=request.param, learner=learner, expected=scores(model, sequences))


def scores(model, sequences):
    results = []
    for start, end in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        ids = torch.from_numpy(sequences.token_ids_T[start:end])
        with torch.no_grad():
            logprobs = torch.log_softmax(model(ids[None]).logits[0, :-1] / TEMPERATURE, dim=-1)
        results.append(logprobs.gather(1, ids[1:, None])[:, 0])
    return torch.cat(results)


def test_float32_gives_the_log_probs_of_the_host(policy, sequences):
    learner = policy.learner(precision="fp32", dtype="float32")
    actual = torch.cat(learner.logprobs(sequences))
    # Only the order of sums differs.
    torch.testing.assert_close(actual, policy.expected, atol=2e-3, rtol=0)


def test_bf16_is_near_to_it(policy, sequences):
    actual = torch.cat(policy.learner().logprobs(sequences))
    # A token near the boundary between two experts goes to another one in bf16.
    limit = 0.15 if policy.kind == "mixture" else 0.05
    assert (actual - policy.expected).abs().mean() < limit


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns(policy, sequences, precision):
    learner = policy.learner(precision=precision)
    losses = [learner.update_supervised(sequences)["sft/loss"] for _ in range(8)]
    assert losses[-1] < losses[0] - 0.1


def test_a_checkpoint_in_bf16_goes_on_in_float32(policy, sequences, tmp_path):
    # Transformer Engine's experts are one module, torch's are many: one checkpoint serves both.
    learner = policy.learner()
    learner.update_supervised(sequences)
    learner.save(tmp_path, 1, extra={})
    again = policy.learner(precision="fp32", dtype="float32")
    assert again.restore(tmp_path) == (1, {})
    saved = {name: weight.cpu() for name, weight in learner.named_weights()}
    for name, weight in again.named_weights():
        assert torch.equal(weight.cpu().to(torch.bfloat16), saved[name]), name


def test_fused_kernels_have_the_gradients_of_plain_ones(policy, sequences):
    def gradients(**megatron):
        learner = policy.learner(optimizer=UNCLIPPED, megatron=megatron)
        learner.update_supervised(sequences)
        return {ungrouped(name): gradient.clone() for name, gradient in learner.gradients()}

    plain = {"apply_rope_fusion": False}
    if policy.kind == "mixture":
        plain |= {"moe_grouped_gemm": False, "moe_permute_fusion": False}
    fused, expected = gradients(), gradients(**plain)
    assert fused.keys() == expected.keys()
    difference = sum((fused[name] - expected[name]).square().sum() for name in expected)
    norm = sum(gradient.square().sum() for gradient in expected.values())
    # Plain rotation rounds the cosines of its angles to bf16.
    assert (difference / norm).sqrt() < 0.05
