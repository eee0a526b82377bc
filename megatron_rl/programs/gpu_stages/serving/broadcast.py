"""Broadcast of weights from a learner's device to a server, and proof that they arrive."""

import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from megatron_rl.config import RunConfig
from megatron_rl.learner.device.platform import detect_platform
from megatron_rl.programs.builders.publisher import make_whole_publisher
from megatron_rl.programs.gpu_stages.serving.generation import open_router
from megatron_rl.programs.gpu_stages.serving.server import backend_note, server_config
from megatron_rl.programs.gpu_stages.sizes import sizes_of
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place
from megatron_rl.protocols import PublishReport, WeightPublisher
from megatron_rl.types import Sampling

_NUM_PROMPTS, _PROMPT_TOKENS = 16, 24
_ROUNDS = 3
"""Publications whose time counts, after those that open the group and move the weights."""
_MIB = 2**20
_ACKNOWLEDGED = Limit(at_least=1, at_most=1, reason="the one server takes every publication")
_CHANGED = Limit(
    at_least=0.5,
    reason="weights in another order choose other tokens: a few of them may be the same by chance",
)
_BACK = Limit(
    at_most=0.05,
    reason="the first weights again score as before, but for batches that are made up otherwise, "
    "whose sums bf16 rounds elsewhere",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chosen:
    """What the server finds most likely after each prompt."""

    tokens: NDArray[np.int64]
    logprobs: NDArray[np.float64]


def check(place: Place) -> Outcome:
    """Publish weights, the same in another order, and the first again; ask the server each time."""
    config, prompts = server_config(place), _prompts(sizes_of(place).policy.vocab_size)
    platform = detect_platform(cpu_threads=1, local_rank=0)
    weights = _weights(config.model.path, platform.device)
    publisher = make_whole_publisher(config, platform)
    chosen, reports = [], []
    for version, shift in enumerate((0, 1, 0)):
        reports.append(_publish(publisher, weights, version=version, shift=shift))
        chosen.append(_ask(config, prompts))
    for version in range(3, 3 + _ROUNDS):
        reports.append(_publish(publisher, weights, version=version, shift=0))
    publisher.close()
    first, other, again = chosen
    seconds = statistics.median(report.seconds for report in reports[-_ROUNDS:])
    num_bytes = reports[-1].num_bytes
    return Outcome(
        figures=[
            Figure(
                name="servers that took the weights, at worst",
                value=min(report.num_servers for report in reports),
                limit=_ACKNOWLEDGED,
            ),
            Figure(
                name="share of chosen tokens that other weights change",
                value=float((first.tokens != other.tokens).mean()),
                limit=_CHANGED,
            ),
            Figure(
                name="largest difference with the first weights again",
                value=float(np.abs(first.logprobs - again.logprobs).max()),
                limit=_BACK,
            ),
            Figure(name="weights", value=num_bytes / _MIB, unit="MiB"),
            Figure(name="publication", value=seconds, unit="s"),
            Figure(
                name="pause of the server",
                value=statistics.median(report.pause_s for report in reports[-_ROUNDS:]),
                unit="s",
            ),
            Figure(name="rate", value=num_bytes / seconds / 1e9, unit="GB/s"),
        ],
        notes=[backend_note(config, place)],
    )


def _weights(folder: Path, device: torch.device) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "model.safetensors")
    return {name: weight.to(device) for name, weight in weights.items()}


def _publish(
    publisher: WeightPublisher, weights: dict[str, torch.Tensor], *, version: int, shift: int
) -> PublishReport:
    """Publish the weights, the rows of each matrix moved on by ``shift``."""
    moved = ((name, weight.roll(shift, 0)) for name, weight in weights.items())
    return publisher.publish(moved, version=version)


def _prompts(vocab_size: int) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return rng.integers(2, vocab_size, (_NUM_PROMPTS, _PROMPT_TOKENS)).tolist()


def _ask(config: RunConfig, prompts: Sequence[Sequence[int]]) -> _Chosen:
    """Ask for the most likely next token of each prompt, one prompt after the other."""
    # Temperature 1: it divides the scores that are reported also where it chooses nothing.
    sampling = Sampling(
        params={"temperature": 1.0, "top_k": 1, "max_new_tokens": 1, "ignore_eos": True}
    )

    async def run() -> _Chosen:
        async with open_router(config) as router:
            generate = await router.lease()
            found = [await generate(p, sampling, request_id="broadcast") for p in prompts]
        return _Chosen(
            tokens=np.array([completion.token_ids[0] for completion in found]),
            logprobs=np.array([completion.logprobs[0] for completion in found]),
        )

    return asyncio.run(run())
