"""``megatron-rl evaluate``: score a model on held-out problems and print the scores as JSON.

Which servers are asked: see ``programs.builders.served_policy``.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_rl.config import HeldOutSet, RunConfig, held_out_sets, unnamed_set
from megatron_rl.errors import ConfigError
from megatron_rl.evaluate import EvaluationResult
from megatron_rl.programs.builders.inference import Sampler
from megatron_rl.programs.builders.prompts import load_tokenizer
from megatron_rl.programs.builders.served_policy import OpenPolicy, ServedPolicy
from megatron_rl.programs.loops.held_out import (
    LoadedSet,
    evaluate_set,
    load_set,
    with_num_samples,
)
from megatron_rl.programs.processes.asyncio_signals import run_until_signal


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Evaluate and return the exit code.

    Args:
        config: the run.
        options: ``problems``, ``sets``, ``num_samples``, ``samples`` and ``model``, see the command
            line.

    Raises:
        ConfigError: there is no such set, or none at all.
        DataError, ModelError: the problems or the model cannot be used.
        ProgramError: the server did not start.
    """
    chosen = [with_num_samples(s, options.num_samples) for s in _chosen_sets(config, options)]
    policy = ServedPolicy(config, options.model)
    tokenizer = load_tokenizer(policy.config.model.path)
    loaded = [load_set(policy.config, held_out, tokenizer) for held_out in chosen]
    with policy.served() as served:
        return run_until_signal(_evaluate(served, loaded, tokenizer, options.samples))


def _chosen_sets(config: RunConfig, options: argparse.Namespace) -> list[HeldOutSet]:
    if options.problems is not None:
        if options.sets:
            raise ConfigError(
                f"--problems {options.problems} and --sets {' '.join(options.sets)} must not be "
                "given together; remove one"
            )
        return [unnamed_set(config, options.problems, path_key="--problems")]
    there = {held_out.title: held_out for held_out in held_out_sets(config)}
    if not there:
        raise ConfigError(
            "nothing to evaluate on: give --problems, or set data.evaluation or [[evaluation.sets]]"
        )
    for name in options.sets or ():
        if name not in there:
            raise ConfigError(f"--sets {name}: there is no such set; there are {', '.join(there)}")
    return [there[name] for name in options.sets or there]


def _weights_of(model: Path) -> str:
    """Return what changes when a model folder does."""
    newest = max((path.stat().st_mtime_ns for path in model.glob("*.safetensors")), default=0)
    return f"{model} of {newest}"


async def _evaluate(
    served: OpenPolicy, loaded: Sequence[LoadedSet], tokenizer: Any, samples: Path | None
) -> None:
    """Print the scores of one set without a name as they are, those of others under their names."""

    def file_of(held_out: LoadedSet) -> Path | None:
        name = held_out.settings.title.removeprefix("--")
        return None if samples is None else samples / f"{name}.jsonl"

    async with served.open_inference(tokenizer) as clients:
        sampler = Sampler(served.config, clients)
        current = clients.router.current_version()
        version = 0 if current is None else current
        policy = f"{_weights_of(served.config.model.path)}, version {version}"
        results: list[EvaluationResult] = await asyncio.gather(
            *(evaluate_set(one, sampler, file_of(one), version, policy) for one in loaded)
        )
    scores = {
        one.settings.title: result.record() for one, result in zip(loaded, results, strict=True)
    }
    first = loaded[0]
    is_plain = len(loaded) == 1 and first.settings.name is None
    print(json.dumps(scores[first.settings.title] if is_plain else scores, indent=1))
