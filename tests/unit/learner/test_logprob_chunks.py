"""On one rank: the size of a chunk changes no result, and the float32 head is float32."""

import pytest
import torch

from megatron_rl.learner.logprobs import token_logprobs_and_entropy

NUM_TOKENS, VOCAB, HIDDEN = 20, 37, 16


def inputs(dtype):
    torch.manual_seed(0)
    hidden_TH = torch.randn(NUM_TOKENS, HIDDEN).to(dtype).requires_grad_()
    weight_VH = torch.randn(VOCAB, HIDDEN).to(dtype).requires_grad_()
    return hidden_TH, weight_VH, torch.randint(0, VOCAB, (NUM_TOKENS,))


def results(parallel, *, dtype, chunk_tokens, is_fp32):
    """Return log-probs, entropies and the gradients of a sum of both."""
    hidden_TH, weight_VH, targets_T = inputs(dtype)
    scores = token_logprobs_and_entropy(
        hidden_TH,
        weight_VH,
        targets_T,
        temperature=0.7,
        entropy_has_gradient=True,
        num_real=VOCAB,
        tp_group=parallel.tp_group,
        chunk_tokens=chunk_tokens,
        is_fp32=is_fp32,
    )
    (scores[0].sum() + 0.5 * scores[1].sum()).backward()
    assert hidden_TH.grad.dtype == weight_VH.grad.dtype == dtype
    return *(score.detach().double() for score in scores), hidden_TH.grad, weight_VH.grad


def expected(dtype):
    """Return the same in float64, of the same rounded inputs."""
    hidden_TH, weight_VH, targets_T = inputs(dtype)
    hidden_TH, weight_VH = (x.detach().double().requires_grad_() for x in (hidden_TH, weight_VH))
    scores_TV = torch.log_softmax(hidden_TH @ weight_VH.t() / 0.7, dim=-1)
    logprobs_T = scores_TV.gather(1, targets_T[:, None])[:, 0]
    entropy_T = -(scores_TV.exp() * scores_TV).sum(-1)
    (logprobs_T.sum() + 0.5 * entropy_T.sum()).backward()
    return logprobs_T.detach(), entropy_T.detach(), hidden_TH.grad, weight_VH.grad


@pytest.mark.parametrize("chunk_tokens", [0, 1, 7, 20, 1000])
def test_every_chunk_size_gives_the_results_of_float64(chunk_tokens, parallel):
    actual = results(parallel, dtype=torch.float32, chunk_tokens=chunk_tokens, is_fp32=False)
    for mine, theirs in zip(actual, expected(torch.float32), strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=2e-5, rtol=0)


def test_the_float32_head_scores_bfloat16_states_without_rounding(parallel):
    exact = expected(torch.bfloat16)
    rounded, kept = (
        results(parallel, dtype=torch.bfloat16, chunk_tokens=7, is_fp32=is_fp32)
        for is_fp32 in (False, True)
    )
    for mine, theirs in zip(kept[:2], exact[:2], strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=0)
    # Eight bits of mantissa: logits of about 10 are rounded by up to 1/32.
    assert (rounded[0] - exact[0]).abs().max() > 1e-3
    for mine, theirs in zip(kept[2:], exact[2:], strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-3, rtol=2**-8)


def test_frozen_weights_get_no_gradient(parallel):
    hidden_TH, weight_VH, targets_T = inputs(torch.float32)
    weight_VH.requires_grad_(False)
    logprobs_T, _ = token_logprobs_and_entropy(
        hidden_TH,
        weight_VH,
        targets_T,
        temperature=1.0,
        entropy_has_gradient=False,
        num_real=VOCAB,
        tp_group=parallel.tp_group,
        chunk_tokens=7,
        is_fp32=False,
    )
    logprobs_T.sum().backward()
    assert hidden_TH.grad is not None and weight_VH.grad is None
