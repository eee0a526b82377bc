"""Log-probs and entropy of a truncated sampler, against float64 over what it chose from."""

import math

import pytest
import torch

from megatron_rl.learner.logprobs import Support, token_logprobs_and_entropy
from megatron_rl.sequences import SamplingSupport

NUM_REAL = 13  # of 16 entries; the last three are padding
ROWS = [[4], [0, 4, 12], [], [3, 2, 1], [5, 5, 6], list(range(NUM_REAL)), [], [7, 8], [12, 9]]
TARGETS = [4, 12, 6, 2, 5, 0, 12, 8, 9]


def on_device(rows: list[list[int]]) -> Support:
    support = SamplingSupport.of_rows(rows)
    counts = torch.tensor([len(row) for row in rows])
    return Support(ids_K=torch.from_numpy(support.ids_K), counts_T=counts, offsets=support.offsets)


def scores(logits_TV, *, parallel, entropy_has_gradient=True, rows=ROWS, chunk_tokens=4):
    return token_logprobs_and_entropy(
        logits_TV,
        torch.eye(logits_TV.shape[1]),
        torch.tensor(TARGETS),
        temperature=0.7,
        entropy_has_gradient=entropy_has_gradient,
        num_real=NUM_REAL,
        tp_group=parallel.tp_group,
        chunk_tokens=chunk_tokens,
        is_fp32=False,
        support=None if rows is None else on_device(rows),
    )


def float64_scores(logits_TV):
    """Return log-probs and entropies token by token, from the definition."""
    logprobs, entropies = [], []
    for logits_V, row, target in zip(logits_TV, ROWS, TARGETS, strict=True):
        kept = sorted(set(row)) or list(range(NUM_REAL))
        all_scores = torch.log_softmax(logits_V[kept] / 0.7, dim=0)
        logprobs.append(all_scores[kept.index(target)])
        entropies.append(-(all_scores.exp() * all_scores).sum())
    return torch.stack(logprobs), torch.stack(entropies)


@pytest.mark.parametrize("chunk_tokens", [0, 1, 4])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_scores_and_gradients_are_those_of_float64(parallel, chunk_tokens, scale):
    torch.manual_seed(0)
    logits_TV = (torch.randn(len(ROWS), 16) * scale).requires_grad_()
    by_logprobs, by_entropy = torch.randn(2, len(ROWS))
    logprobs_T, entropy_T = scores(logits_TV, parallel=parallel, chunk_tokens=chunk_tokens)
    (by_logprobs * logprobs_T + by_entropy * entropy_T).sum().backward()

    double_TV = logits_TV.detach().double().requires_grad_()
    expected_T, expected_entropy_T = float64_scores(double_TV)
    (by_logprobs * expected_T + by_entropy * expected_entropy_T).sum().backward()
    tolerance = 1e-5 * scale
    torch.testing.assert_close(logprobs_T.double(), expected_T, atol=tolerance, rtol=1e-6)
    torch.testing.assert_close(entropy_T.double(), expected_entropy_T, atol=tolerance, rtol=1e-6)
    torch.testing.assert_close(logits_TV.grad.double(), double_TV.grad, atol=tolerance, rtol=1e-5)


def test_what_could_not_be_chosen_has_no_gradient(parallel):
    logits_TV = torch.randn(len(ROWS), 16, requires_grad=True)
    logprobs_T, _ = scores(logits_TV, parallel=parallel, entropy_has_gradient=False)
    logprobs_T.sum().backward()
    assert logprobs_T[0].item() == 0.0  # the only token that could be chosen
    for gradient_V, row in zip(logits_TV.grad, ROWS, strict=True):
        left_out = set(range(16)) - set(row or range(NUM_REAL))
        assert not gradient_V[sorted(left_out)].any()


def test_all_tokens_to_choose_from_are_no_truncation(parallel):
    logits_TV = torch.randn(len(ROWS), 16)
    everything = [list(range(NUM_REAL))] * len(ROWS)
    whole = scores(logits_TV, parallel=parallel, rows=None)
    for actual, expected in zip(
        scores(logits_TV, parallel=parallel, rows=everything), whole, strict=True
    ):
        assert torch.equal(actual, expected)


def test_a_likely_token_outside_the_support_does_not_count(parallel):
    logits_TV = torch.zeros(len(ROWS), 16)
    logits_TV[:, 10] = 1e4  # in none of the first two rows
    logprobs_T, _ = scores(logits_TV, parallel=parallel)
    assert logprobs_T[1].item() == pytest.approx(-math.log(3))
