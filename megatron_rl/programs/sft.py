"""``megatron-rl sft``: the supervised cold start. Pairs to packed rows; loss on responses only."""

import argparse
import logging
import os
import time
from collections.abc import Sequence

from megatron_rl.config import RunConfig, SftConfig
from megatron_rl.data.demonstrations import Demonstration
from megatron_rl.errors import ConfigError, Interrupted
from megatron_rl.hf_folder import write_hf_folder
from megatron_rl.learner.agreement import Agreement
from megatron_rl.learner.checkpoint_steps import remove_old_checkpoints
from megatron_rl.learner.learner import Learner
from megatron_rl.learner.parallel import Parallel, shut_down_parallel
from megatron_rl.programs.deadline import Deadline
from megatron_rl.programs.demonstrations import (
    load_demonstrations,
    num_supervised_steps,
    pairs_of_step,
    supervised_sequences,
)
from megatron_rl.programs.learner_setup import open_learner
from megatron_rl.programs.questions import load_tokenizer
from megatron_rl.programs.skipped_steps import SkippedSteps
from megatron_rl.programs.starting_weights import base_weights
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
        TrainingError: too many batches in a row gave no finite gradient.
    """
    deadline = Deadline(os.environ)
    stop = StopRequest(deadline)
    if config.sft is None:
        raise ConfigError("the configuration has no [sft] table, so there is no cold start to run")
    tokenizer = load_tokenizer(config.model.path)
    demonstrations = load_demonstrations(config, config.sft, tokenizer)
    total_steps = num_supervised_steps(config.sft, len(demonstrations))
    learner, parallel, platform = open_learner(
        config,
        config.sft.optimizer,
        objective=None,
        pretrained=base_weights(config),
        temperature=1.0,
        total_steps=total_steps,
    )
    agreement = Agreement(parallel, platform.device)
    settings = (config.sft, demonstrations, total_steps)
    _train(config, *settings, learner, parallel, agreement, stop, deadline)
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


def _train(
    config: RunConfig,
    sft: SftConfig,
    demonstrations: Sequence[Demonstration],
    total_steps: int,
    learner: Learner,
    parallel: Parallel,
    agreement: Agreement,
    stop: StopRequest,
    deadline: Deadline,
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
    skipped = SkippedSteps(most=config.learner.max_skipped_steps)
    while step < total_steps:
        started = time.monotonic()
        chosen = pairs_of_step(step, sft, len(demonstrations), seed=config.seed)
        metrics = learner.update_supervised(
            supervised_sequences([demonstrations[i] for i in chosen])
        )
        skipped.note(f"batch {step} of {sft.data}", metrics["sft/skipped_steps"])
        step += 1
        if telemetry is not None:
            telemetry.record(step, metrics | {"num_steps": float(total_steps)})
        deadline.note_step(time.monotonic() - started)
        is_stopping = agreement.decide(lambda: "go on", wants_stop=stop.is_set) == "stop"
        is_due = sft.checkpoint_every and step % sft.checkpoint_every == 0
        if is_stopping or is_due or step == total_steps:
            started = time.monotonic()
            learner.save(checkpoints, step, extra={})
            deadline.note_save(time.monotonic() - started)
            saved = step
            if parallel.is_first:
                remove_old_checkpoints(checkpoints, keep=config.checkpoint.keep, keep_every=0)
        if is_stopping and step < total_steps:
            raise Interrupted(f"stopped at step {saved} of the cold start; run again to resume")
    if telemetry is not None:
        telemetry.close()
