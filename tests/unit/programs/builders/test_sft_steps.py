"""The cold start's plan: how many steps, which pairs in each, what every token weighs."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.algorithm.packing import pack_row
from megatron_rl.config import SftConfig
from megatron_rl.data.sft_tokens import Demonstration
from megatron_rl.programs.builders.demonstrations import (
    num_supervised_steps,
    pairs_of_step,
    supervised_sequences,
)


def sft(*, num_epochs, batch_size):
    return SftConfig(data=Path("pairs.jsonl"), num_epochs=num_epochs, batch_size=batch_size)


@pytest.mark.parametrize(
    ("num_epochs", "num_pairs", "batch_size", "expected"),
    [
        (1, 8, 4, 2),
        (1, 9, 4, 3),  # the third batch holds one pair of this pass and three of the next
        (3, 3, 4, 3),  # 9 pairs in batches of 4
        (1, 2, 8, 1),
    ],
)
def test_steps_cover_every_epoch(num_epochs, num_pairs, batch_size, expected):
    config = sft(num_epochs=num_epochs, batch_size=batch_size)
    assert num_supervised_steps(config, num_pairs) == expected


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 30), st.integers(0, 5))
def test_every_pair_is_seen_once_an_epoch(num_epochs, num_pairs, batch_size, seed):
    config = sft(num_epochs=num_epochs, batch_size=batch_size)
    steps = range(num_supervised_steps(config, num_pairs))
    seen = [i for step in steps for i in pairs_of_step(step, config, num_pairs, seed=seed)]
    assert len(seen) == len(steps) * batch_size
    for epoch in range(num_epochs):
        assert sorted(seen[epoch * num_pairs : (epoch + 1) * num_pairs]) == list(range(num_pairs))


def test_the_pairs_of_a_step_depend_on_step_and_seed_alone():
    config = sft(num_epochs=9, batch_size=8)
    first = pairs_of_step(3, config, 50, seed=1)
    pairs_of_step(0, config, 50, seed=2)
    assert pairs_of_step(3, config, 50, seed=1) == first
    assert pairs_of_step(3, config, 50, seed=2) != first


def test_response_tokens_weigh_the_same_and_prompts_nothing():
    sequences = supervised_sequences(
        [
            Demonstration(token_ids=(5, 6, 7, 8), prompt_length=2),
            Demonstration(token_ids=(9, 10, 11), prompt_length=1),
            Demonstration(token_ids=(12, 13), prompt_length=1),
        ]
    )
    # Response tokens: 7 8, 10 11, 13. Each weighs 1 / 5.
    row = pack_row(sequences, (0, 1, 2))
    trained = row.weights_T > 0
    assert row.targets_T[trained].tolist() == [7, 8, 10, 11, 13]
    assert row.weights_T[trained] == pytest.approx(np.full(5, 0.2))
    assert sequences.offsets.tolist() == [0, 4, 7, 9]
