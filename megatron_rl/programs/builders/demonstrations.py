"""Demonstration pairs of a cold start, and the optimiser step each belongs to."""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from megatron_rl.config import RunConfig, SftConfig
from megatron_rl.data.curriculum.passes import PassOrder
from megatron_rl.data.sft_files import load_sft_pairs
from megatron_rl.data.sft_tokens import Demonstration, build_demonstrations
from megatron_rl.data.vocabulary import check_token_ids
from megatron_rl.programs.builders.model import trained_spec
from megatron_rl.programs.builders.stop_tokens import turn_end_of
from megatron_rl.programs.builders.thinking import (
    demonstration_writer,
    open_thinking,
    prompt_maker,
)
from megatron_rl.sequences import Sequences

_LOG = logging.getLogger(__name__)


def load_demonstrations(config: RunConfig, sft: SftConfig, tokenizer: Any) -> list[Demonstration]:
    """Read and tokenize the pairs; DataError names what is wrong with them."""
    thinking = open_thinking(config, tokenizer)
    write, faults = demonstration_writer(thinking), []

    def write_response(prompt: tuple[int, ...], response: str) -> str:
        text, fault = write(prompt, response)
        faults.append(fault)
        return text

    demonstrations = build_demonstrations(
        tokenizer,
        load_sft_pairs(sft.data),
        path=sft.data,
        make_prompt=prompt_maker(config, tokenizer, thinking),
        write_response=write_response,
        turn_end=turn_end_of(config, tokenizer),
        max_tokens=config.learner.token_budget,
    )
    _warn_of_faults(sft, faults)
    check_token_ids(
        ((f"{sft.data}: pair {n}", d.token_ids) for n, d in enumerate(demonstrations, start=1)),
        vocab_size=trained_spec(config).vocab_size,
        token_of=tokenizer.convert_ids_to_tokens,
    )
    return demonstrations


def _warn_of_faults(sft: SftConfig, faults: Sequence[str | None]) -> None:
    """Say how many pairs teach a response that would earn nothing, and show the first."""
    numbers = [number for number, fault in enumerate(faults, start=1) if fault is not None]
    if numbers:
        _LOG.warning(
            "%s: %d of %d demonstrations do not have the think format in force; the first is pair "
            "%d, which %s",
            *(sft.data, len(numbers), len(faults), numbers[0], faults[numbers[0] - 1]),
        )


def num_supervised_steps(sft: SftConfig, num_pairs: int) -> int:
    """Return the optimiser steps of the cold start; the last batch is filled from a new pass."""
    return -(-sft.num_epochs * num_pairs // sft.batch_size)


def pairs_of_step(step: int, sft: SftConfig, num_pairs: int, *, seed: int) -> list[int]:
    """Return the positions of the pairs of one step; a pure function, so resuming is exact."""
    first = step * sft.batch_size
    order = _pass_order(num_pairs, seed)
    return [order.at(visit) for visit in range(first, first + sft.batch_size)]


@functools.lru_cache(maxsize=1)
def _pass_order(num_pairs: int, seed: int) -> PassOrder:
    """Return the order of the pairs, kept for the next step of the same pass."""
    return PassOrder(num_pairs, seed=seed, shuffle=True)


def supervised_sequences(demonstrations: Sequence[Demonstration]) -> Sequences:
    """Lay demonstrations end to end, every response token weighing the same."""
    lengths = [len(d.token_ids) for d in demonstrations]
    num_response = [len(d.token_ids) - d.prompt_length for d in demonstrations]
    mask = [
        np.arange(length) >= d.prompt_length
        for d, length in zip(demonstrations, lengths, strict=True)
    ]
    return Sequences(
        token_ids_T=np.concatenate([np.array(d.token_ids, dtype=np.int64) for d in demonstrations]),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        loss_mask_T=np.concatenate(mask),
        behavior_logprobs_T=np.zeros(sum(lengths), dtype=np.float32),
        advantages_N=np.ones(len(lengths), dtype=np.float32),
        weights_N=np.full(len(lengths), 1 / sum(num_response), dtype=np.float32),
    )
