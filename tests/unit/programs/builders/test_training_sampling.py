"""Sampling of what is trained on: what is asked of a server, and what it has to tell."""

import pytest

from megatron_rl.config import SamplingConfig
from megatron_rl.programs.builders.inference import training_sampling

WHOLE = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4096}


def test_the_whole_vocabulary_needs_no_description():
    asked = training_sampling(SamplingConfig())
    assert (asked.params, asked.returns_support) == (WHOLE, False)


@pytest.mark.parametrize(
    ("settings", "top_k"),
    # SGLang describes a sampler only where top_k bounds what it chooses from.
    [({"top_p": 0.9}, 512), ({"min_p": 0.1}, 512), ({"top_k": 20}, 20)],
)
def test_a_truncated_sampler_is_bounded_and_described(settings, top_k):
    asked = training_sampling(SamplingConfig(**settings))
    assert asked.params == WHOLE | {"min_p": 0.0} | settings | {"top_k": top_k}
    assert asked.returns_support
