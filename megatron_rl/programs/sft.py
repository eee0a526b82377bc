"""``megatron-rl sft``: the supervised cold start. Pairs to packed rows; loss on responses only."""

import argparse
import logging
from collections.abc import Sequence

import numpy as np

from megatron_rl.algorithm.packing import Sequences
from megatron_rl.config import RunConfig, SftConfig
from megatron_rl.data.curriculum import problem_at
from megatron_rl.data.demonstrations import Demonstration, build_demonstrations
from megatron_rl.data.prompts import load_system_prompt
from megatron_rl.data.sft import load_sft_pairs
from megatron_rl.errors import ConfigError, Interrupted
from megatron_rl.hf_folder import write_hf_folder
from megatron_rl.learner.agreement import Agreement
from megatron_rl.learner.checkpoint import remove_old_checkpoints
from megatron_rl.learner.learner import Learner
from megatron_rl.learner.parallel import Parallel, shut_down_parallel
from megatron_rl.programs.learner_setup import base_weights, open_learner
from megatron_rl.programs.questions import load_tokenizer
from megatron_rl.programs.stop_request import StopRequest
from megatron_rl.run_dir import RunDir
from megatron_rl.telemetry import open_telemetry

_LOG = logging.getLogger(__name__)
_SHARD_BYTES = 4 * 2**30


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Train on the pairs of ``sft.data`` and export the model to ``sft/hf``; exit code 0.

    Raises:
        ConfigError: the run has no [sft] table.
        Interrupted: asked to stop; the last step is saved.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = StopRequest()
    if config.sft is None:
        raise ConfigError("the configuration has no [sft] table, so there is no cold start to run")
    demonstrations = load_demonstrations(config, config.sft)
    total_steps = num_steps(config.sft, len(demonstrations))
    learner, parallel, platform = open_learner(
        config,
        config.sft.optimizer,
        pretrained=base_weights(config),
        temperature=1.0,
        total_steps=total_steps,
    )
    agreement = Agreement(parallel, platform.device)
    _train(config, config.sft, demonstrations, total_steps, learner, parallel, agreement, stop)
    weights = learner.named_weights()
    if parallel.is_first:
        write_hf_folder(
            RunDir(config.run_dir).sft / "hf",
            weights,
            source=config.model.path,
            max_shard_bytes=_SHARD_BYTES,
        )
    else:
        for _ in weights:  # a collective
            pass
    shut_down_parallel()
    return 0


def load_demonstrations(config: RunConfig, sft: SftConfig) -> list[Demonstration]:
    """Read and tokenize the pairs; DataError names what is wrong with them."""
    return build_demonstrations(
        load_tokenizer(config.model.path),
        load_sft_pairs(sft.data),
        path=sft.data,
        system_prompt=load_system_prompt(config.data.system_prompt),
        max_tokens=config.learner.token_budget,
    )


def num_steps(sft: SftConfig, num_pairs: int) -> int:
    """Return the optimiser steps of the cold start; the last batch is filled from a new pass."""
    return -(-sft.num_epochs * num_pairs // sft.batch_size)


def pairs_of_step(step: int, sft: SftConfig, num_pairs: int, *, seed: int) -> list[int]:
    """Return the positions of the pairs of one step; a pure function, so resuming is exact."""
    first = step * sft.batch_size
    return [
        problem_at(index, num_problems=num_pairs, seed=seed, shuffle=True)
        for index in range(first, first + sft.batch_size)
    ]


def supervised_sequences(demonstrations: Sequence[Demonstration]) -> Sequences:
    """Lay demonstrations end to end, every response token weighing the same."""
    lengths = [len(d.token_ids) for d in demonstrations]
    num_response = [len(d.token_ids) - d.prompt_length for d in demonstrations]
    mask = [[False] * d.prompt_length + [True] * n for d, n in zip(demonstrations, num_response)]
    num_sequences, num_tokens = len(lengths), sum(lengths)
    return Sequences(
        token_ids_T=np.concatenate([np.array(d.token_ids, dtype=np.int64) for d in demonstrations]),
        offsets=np.cumsum([0, *lengths], dtype=np.int64),
        loss_mask_T=np.concatenate([np.array(m, dtype=np.bool_) for m in mask]),
        behavior_logprobs_T=np.zeros(num_tokens, dtype=np.float32),
        advantages_N=np.ones(num_sequences, dtype=np.float32),
        weights_N=np.full(num_sequences, 1 / sum(num_response), dtype=np.float32),
    )


def _train(
    config: RunConfig,
    sft: SftConfig,
    demonstrations: Sequence[Demonstration],
    total_steps: int,
    learner: Learner,
    parallel: Parallel,
    agreement: Agreement,
    stop: StopRequest,
) -> None:
    run_dir = RunDir(config.run_dir)
    checkpoints = run_dir.sft / "checkpoints"
    restored = learner.restore(checkpoints)
    step = saved = 0 if restored is None else restored[0]
    telemetry = None
    if parallel.is_first:
        telemetry = open_telemetry(
            run_dir.sft / "metrics.jsonl",
            tensorboard=run_dir.tensorboard / "sft" if config.telemetry.tensorboard else None,
            wandb_project=config.telemetry.wandb_project,
            run_name=f"{run_dir.root.name}-sft",
            from_step=step,
        )
    while step < total_steps:
        chosen = pairs_of_step(step, sft, len(demonstrations), seed=config.seed)
        metrics = learner.update_supervised(
            supervised_sequences([demonstrations[i] for i in chosen])
        )
        step += 1
        if telemetry is not None:
            telemetry.record(step, metrics | {"num_steps": float(total_steps)})
        is_stopping = agreement.decide(lambda: "go on", wants_stop=stop.is_set) == "stop"
        is_due = sft.checkpoint_every and step % sft.checkpoint_every == 0
        if is_stopping or is_due or step == total_steps:
            learner.save(checkpoints, step, extra={})
            saved = step
            if parallel.is_first:
                remove_old_checkpoints(checkpoints, keep=config.checkpoint.keep)
        if is_stopping and step < total_steps:
            raise Interrupted(f"stopped at step {saved} of the cold start; run again to resume")
    if telemetry is not None:
        telemetry.close()
