"""``megatron-rl sft``: supervised cold start; pairs to packed rows, loss on responses only."""

import argparse
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from megatron_rl.config import RunConfig, SftConfig
from megatron_rl.data.sft_tokens import Demonstration
from megatron_rl.errors import ConfigError, Interrupted
from megatron_rl.hf_folder import write_hf_folder
from megatron_rl.learner.device.parallel import Parallel, shut_down_parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.learner import Learner
from megatron_rl.learner.rank_consensus import RankConsensus
from megatron_rl.programs.builders.demonstrations import (
    load_demonstrations,
    num_supervised_steps,
    pairs_of_step,
    supervised_sequences,
)
from megatron_rl.programs.builders.learner import open_learner
from megatron_rl.programs.builders.model import base_weights, exported_fields
from megatron_rl.programs.builders.prompts import load_tokenizer
from megatron_rl.programs.loops.checkpointing import Checkpointing
from megatron_rl.programs.loops.nonfinite_steps import NonfiniteSteps
from megatron_rl.programs.processes.stopping import Deadline, StopRequest
from megatron_rl.run_dir import RunDir
from megatron_rl.telemetry import Telemetry, open_telemetry

_LOG = logging.getLogger(__name__)
_SHARD_BYTES = 4 * 2**30


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Train on the pairs of ``sft.data`` and export the model to ``sft/hf``; exit code 0.

    Where evaluation selects, candidates are exported instead, and ``select`` makes ``sft/hf``.

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
    loop = SupervisedLoop(config, config.sft, demonstrations, learner, parallel, platform, deadline)
    try:
        loop.run(total_steps, stop)
    finally:
        loop.close()
    if config.sft.select == "last":
        _export(RunDir(config.run_dir).sft_hf, config, learner, parallel)
    shut_down_parallel()
    return 0


class SupervisedLoop:
    """The loop of one rank; rank 0 alone touches files."""

    def __init__(
        self,
        config: RunConfig,
        sft: SftConfig,
        demonstrations: Sequence[Demonstration],
        learner: Learner,
        parallel: Parallel,
        platform: Platform,
        deadline: Deadline,
    ) -> None:
        self._config, self._sft, self._demonstrations = config, sft, demonstrations
        self._learner, self._parallel, self._deadline = learner, parallel, deadline
        self._consensus = RankConsensus(parallel, platform.device)
        self._telemetry: Telemetry | None = None
        self._skipped = NonfiniteSteps(most=config.learner.max_skipped_steps)
        self._checkpointing = Checkpointing(
            RunDir(config.run_dir).sft / "checkpoints",
            learner,
            every=sft.checkpoint_every,
            in_background=config.checkpoint.async_save,
            keep=config.checkpoint.keep,
            keep_every=0,
            clears_up=parallel.is_first,
        )

    def run(self, total_steps: int, stop: StopRequest) -> None:
        """Restore, then take pairs, update, record and save until the last step."""
        step, _ = self._checkpointing.restore()
        self._open_telemetry(step)
        candidates = candidate_steps(self._sft, total_steps)
        while step < total_steps:
            started = time.monotonic()
            metrics = self._update(step)
            step += 1
            if step in candidates:
                # Before the checkpoint: what goes on from there finds it.
                self._export_candidate(step)
            self._checkpointing.save_if_due(step, {})
            metrics |= self._checkpointing.metrics() | {"num_steps": float(total_steps)}
            if "time/checkpoint_total_s" in metrics:
                self._deadline.note_save(metrics["time/checkpoint_total_s"])
            self._deadline.note_step(time.monotonic() - started)
            if self._telemetry is not None:
                self._telemetry.record(step, metrics)
            self._checkpointing.poll(wait=False)
            is_stopping = self._consensus.decide(lambda: "go on", wants_stop=stop.is_set) == "stop"
            if is_stopping and step < total_steps:
                self._checkpointing.save_and_wait(step, {})
                raise Interrupted(f"stopped at step {step} of the cold start; run again to resume")
        self._checkpointing.save_and_wait(step, {})

    def close(self) -> None:
        """Close the records."""
        if self._telemetry is not None:
            self._telemetry.close()

    def _export_candidate(self, step: int) -> None:
        folder = RunDir(self._config.run_dir).sft_candidates / f"step_{step:06d}"
        _export(folder, self._config, self._learner, self._parallel)

    def _update(self, step: int) -> dict[str, float]:
        pairs = self._demonstrations
        chosen = pairs_of_step(step, self._sft, len(pairs), seed=self._config.seed)
        sequences = supervised_sequences([pairs[i] for i in chosen])
        metrics = self._learner.update_supervised(sequences)
        self._skipped.note(f"batch {step} of {self._sft.data}", metrics["sft/skipped_steps"])
        return metrics

    def _open_telemetry(self, step: int) -> None:
        if not self._parallel.is_first:
            return
        run_dir, wanted = RunDir(self._config.run_dir), self._config.telemetry
        self._telemetry = open_telemetry(
            run_dir.sft / "metrics.jsonl",
            tensorboard=run_dir.tensorboard / "sft" if wanted.tensorboard else None,
            wandb_project=wanted.wandb_project,
            run_name=f"{run_dir.root.name}-sft",
            from_step=step,
        )


def candidate_steps(sft: SftConfig, total_steps: int) -> frozenset[int]:
    """Return the steps whose models are kept for evaluation to select from."""
    if sft.select == "last":
        return frozenset()
    count = min(sft.candidates, total_steps)
    return frozenset(round(total_steps * (i + 1) / count) for i in range(count))


def _export(folder: Path, config: RunConfig, learner: Learner, parallel: Parallel) -> None:
    weights = learner.named_weights()
    if parallel.is_first:
        write_hf_folder(
            folder,
            weights,
            source=config.model.path,
            config_changes=exported_fields(config),
            max_shard_bytes=_SHARD_BYTES,
        )
    else:
        for _ in weights:  # a collective
            pass
