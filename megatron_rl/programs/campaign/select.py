"""``megatron-rl select``: choose the model of the cold start that RL starts from, by evaluation.

Each candidate is served by a server of its own and scored on the first held-out set. The one that
solves most becomes ``sft/hf``; of equals the earliest. What is scored is not scored again.
"""

import argparse
import shutil
from pathlib import Path

from megatron_rl.config import RunConfig, held_out_sets
from megatron_rl.errors import ConfigError
from megatron_rl.programs.builders.inference import Sampler
from megatron_rl.programs.builders.prompts import load_tokenizer
from megatron_rl.programs.builders.served_policy import ServedPolicy
from megatron_rl.programs.loops.held_out import evaluate_set, load_set
from megatron_rl.programs.loops.selection import (
    best_of,
    candidates_of,
    describe_selection,
    scores_of,
)
from megatron_rl.programs.processes.asyncio_signals import run_until_signal
from megatron_rl.run_dir import RunDir, append_jsonl, drop_unfinished_line


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Score every candidate that has no score, make the best one ``sft/hf``; exit code 0.

    Raises:
        ConfigError: the run has no cold start of which evaluation selects, or no candidates yet.
        ProgramError: a server did not start.
    """
    if config.sft is None or config.sft.select != "evaluation":
        raise ConfigError('nothing to select from: set sft.select = "evaluation" (and [sft])')
    run_dir = RunDir(config.run_dir)
    candidates = candidates_of(run_dir)
    if not candidates:
        raise ConfigError(f"{run_dir.sft_candidates} has no models; run `megatron-rl sft` first")
    if not run_dir.is_cold_start_done:
        drop_unfinished_line(run_dir.sft_selection)
        known = scores_of(run_dir)
        for step in candidates.keys() - known.keys():
            run_until_signal(_score(config, step, candidates[step]))
        best = best_of(scores_of(run_dir))
        _publish(candidates[best], run_dir.sft_hf)
    for line in describe_selection(run_dir):
        print(line, flush=True)
    return 0


async def _score(config: RunConfig, step: int, folder: Path) -> None:
    policy = ServedPolicy(config, folder)
    tokenizer = load_tokenizer(folder)
    loaded = load_set(policy.config, held_out_sets(config)[0], tokenizer)
    with policy.served() as served:
        async with served.open_inference(tokenizer) as clients:
            result = await evaluate_set(loaded, Sampler(served.config, clients), None, 0)
    append_jsonl(RunDir(config.run_dir).sft_selection, {"step": step, **result.record()})


def _publish(folder: Path, target: Path) -> None:
    """Copy a folder so that it appears whole."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    partial.replace(target)
