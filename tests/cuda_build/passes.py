"""Passes forward and backward of a learner, recorded as shapes and types; values stay unknown."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from megatron_rl.learner import forward
from megatron_rl.learner.hf_weights import ungrouped
from megatron_rl.learner.learner import Learner
from megatron_rl.learner.objective import supervised_loss
from megatron_rl.sequences import Sequences

# Multiples of 32 without the last token, which has no target: cut over four ranks, tokens of a row
# spread evenly over eight experts.
_LENGTHS = [33, 65, 97, 33, 129, 65]
_RECORDED = re.compile(
    r"embedding|decoder\.final_layernorm|decoder\.layers\.\d+(\.self_attention|\.mlp)?"
)
Signature = dict[str, list[Any]]
"""Name -> [shape, type]: outputs of layers and of the loss, and gradients by parameter."""


def sequences_of(lengths: list[int]) -> Sequences:
    """Return sequences of these lengths, all of whose tokens count."""
    total = sum(lengths)
    return Sequences(
        token_ids_T=np.random.default_rng(0).integers(0, 61, total),
        offsets=np.cumsum([0, *lengths]),
        loss_mask_T=np.ones(total, dtype=bool),
        behavior_logprobs_T=np.zeros(total, dtype=np.float32),
        advantages_N=np.ones(len(lengths), dtype=np.float32),
        weights_N=np.full(len(lengths), 1 / (total - len(lengths)), dtype=np.float32),
    )


def step_of_shapes(learner: Learner, sequences: Sequences | None = None) -> Signature:
    """Run the rows of a supervised step, up to where its metrics would be read on the host."""
    if sequences is None:
        sequences = sequences_of(_LENGTHS)
    minibatch = learner._arrange(sequences, np.arange(len(sequences.offsets) - 1))
    seen: Signature = {"rows": [len(minibatch.rows)]}
    for chunk in learner._chunks:
        chunk.zero_grad_buffer()
    with _metrics_recorded(seen), _outputs_recorded(learner, seen):
        learner._runner.train(
            minibatch.rows, supervised_loss, temperature=0.7, entropy_has_gradient=False
        )
    for chunk in learner._bare_chunks():
        for name, param in chunk.named_parameters():
            seen[f"gradient of {ungrouped(name)}"] = _said(param.main_grad)
    return seen


@contextmanager
def _outputs_recorded(learner: Learner, seen: Signature) -> Iterator[None]:
    def record(name: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                seen[f"output of {name}"] = _said(first)

        return hook

    hooks = [
        module.register_forward_hook(record(name))
        for chunk in learner._bare_chunks()
        for name, module in chunk.named_modules()
        if _RECORDED.fullmatch(name)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _metrics_recorded(seen: Signature) -> Iterator[None]:
    def record(results: list[dict[str, torch.Tensor]], _: Any) -> dict[str, float]:
        for result in results:
            seen.update({f"metric {name}": _said(value) for name, value in result.items()})
        return {}

    with patch.object(forward, "sum_over_rows_and_ranks", record):
        yield


def _said(tensor: torch.Tensor) -> list[Any]:
    return [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
