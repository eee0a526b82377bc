"""What a server sampled, beside transformers models in float32 that take the same tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from sglang_server import PROMPT, Server
from transformers import DynamicCache

TOLERANCE = 1e-4
"""Of log-probs."""


def reported_logprobs(answer: Any) -> torch.Tensor:
    """Return the log-probs in a server's answer."""
    return torch.tensor([entry[0] for entry in answer["meta_info"]["output_token_logprobs"]])


def replayed_logprobs(models: Sequence[torch.nn.Module], token_ids: list[int]) -> torch.Tensor:
    """Sample the same tokens again, token i under ``models[i]``, never recomputing the KV cache."""
    cache, inputs, logprobs = DynamicCache(), torch.tensor([PROMPT]), []
    with torch.no_grad():
        for model, token_id in zip(models, token_ids, strict=True):
            logits = model(inputs, past_key_values=cache, use_cache=True).logits[0, -1]
            logprobs.append(torch.log_softmax(logits, -1)[token_id])
            inputs = torch.tensor([[token_id]])
    return torch.stack(logprobs)


def largest_error(answer: Any, models: Sequence[torch.nn.Module]) -> float:
    """Return how far reported log-probs are from those of ``models``, one for each token."""
    expected = replayed_logprobs(models, answer["output_ids"])
    return (reported_logprobs(answer) - expected).abs().max().item()


def assert_samples(server: Server, model: torch.nn.Module, *, version: int) -> None:
    """Sample and compare; the server must say that it used this version throughout."""
    answer = server.generate(num_tokens=16, extra_key=str(version))
    assert {span["version"] for span in answer["meta_info"]["weight_versions"]} == {str(version)}
    assert largest_error(answer, [model] * 16) < TOLERANCE
