"""``megatron-rl learn``: batches to optimiser steps to published weights.

One process per rank, started by torchrun, by srun, or by ``megatron-rl train``. With ``--replay``
it trains on recorded batches and publishes nothing.
"""

import argparse
import logging
import os
import time
from collections.abc import Iterator, Mapping

from torch import Tensor

from megatron_rl.batch import Batch
from megatron_rl.batch_files import FileBatchSource, prune_batches
from megatron_rl.config import RunConfig, held_out_sets, optimizer_steps
from megatron_rl.errors import Interrupted
from megatron_rl.hf_folder import write_hf_folder
from megatron_rl.learner.device.parallel import Parallel, shut_down_parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.learner import Learner
from megatron_rl.learner.rank_consensus import RankConsensus
from megatron_rl.programs.builders.learner import open_learner
from megatron_rl.programs.builders.model import exported_fields, first_weights
from megatron_rl.programs.builders.objective import objective_of
from megatron_rl.programs.builders.publisher import open_publisher
from megatron_rl.programs.campaign.current_stage import ends_the_run, refuse_unplaced
from megatron_rl.programs.campaign.stage_ending import StageEnding
from megatron_rl.programs.loops.checkpointing import Checkpointing
from megatron_rl.programs.loops.next_event import Awaited, Event, NextEvent
from megatron_rl.programs.loops.nonfinite_steps import NonfiniteSteps
from megatron_rl.programs.processes.run_folder import write_config
from megatron_rl.programs.processes.stopping import Deadline, StopRequest
from megatron_rl.registry import withdraw_policy_state
from megatron_rl.run_dir import RunDir
from megatron_rl.telemetry import Telemetry, open_telemetry

_LOG = logging.getLogger(__name__)
_NFS_VISIBILITY_TIMEOUT_S = 90.0
"""Time within which every node sees a new file: file systems remember for a while that it was
missing."""
_EXPORT_SHARD_BYTES = 4 * 2**30


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Train until ``num_steps`` and export the model; exit code 0.

    Raises:
        Interrupted: asked to stop; everything up to the last step is saved.
        BatchFileError: a replay lacks a batch, or a batch file is damaged.
        TrainingError: too many batches in a row gave no finite gradient.
        CheckpointError: one cannot be written, or the latest one cannot be used.
    """
    deadline = Deadline(os.environ)
    stop = StopRequest(deadline)
    refuse_unplaced(config, "learn")
    learner, parallel, platform = open_learner(
        config,
        config.learner.optimizer,
        objective=objective_of(config.algorithm),
        pretrained=first_weights(config),
        temperature=config.generators.sampling.temperature,
        total_steps=optimizer_steps(config),
    )
    loop = LearnLoop(config, learner, parallel, platform, deadline, is_replay=options.replay)
    try:
        loop.run(stop)
    finally:
        loop.close()
    shut_down_parallel()
    return 0


class LearnLoop:
    """The loop of one rank; rank 0 alone touches files and generators."""

    def __init__(
        self,
        config: RunConfig,
        learner: Learner,
        parallel: Parallel,
        platform: Platform,
        deadline: Deadline,
        *,
        is_replay: bool,
    ) -> None:
        self._config = config
        self._deadline = deadline
        self._run_dir = RunDir(config.run_dir)
        self._learner = learner
        self._parallel = parallel
        self._is_replay = is_replay
        self._source = FileBatchSource(self._run_dir)
        self._publisher = None if is_replay else open_publisher(config, platform, learner, parallel)
        consensus = RankConsensus(parallel, platform.device)
        self._held_out = [held_out.name for held_out in held_out_sets(config)]
        self._next_event = NextEvent(
            self._run_dir,
            consensus,
            self._publisher,
            is_replay=is_replay,
            held_out=self._held_out,
        )
        self._stage_ending = StageEnding(config, consensus)
        self._telemetry: Telemetry | None = None
        kept = None if is_replay else config.checkpoint.keep_batches  # a recording stays
        self._checkpointing = Checkpointing(
            self._run_dir.checkpoints,
            learner,
            every=config.checkpoint.every,
            in_background=config.checkpoint.async_save,
            keep=config.checkpoint.keep,
            keep_every=config.checkpoint.keep_every,
            clears_up=parallel.is_first,
            forget_before=None
            if kept is None
            else lambda oldest: prune_batches(self._run_dir, before_step=oldest - kept),
        )
        self._skipped = NonfiniteSteps(most=config.learner.max_skipped_steps)

    def run(self, stop: StopRequest) -> None:
        """Restore, publish, then take, update, publish, record and save until the last step."""
        if self._parallel.is_first and not self._is_replay:
            withdraw_policy_state(self._run_dir)
        step, cursor = self._checkpointing.restore()
        _LOG.info("rank %d starts at version %d", self._parallel.rank, step)
        if self._parallel.is_first:
            write_config(self._config)
        self._open_telemetry(step)
        self._publish(step)
        while step < self._config.num_steps and not self._stage_ending.is_over():
            started = time.monotonic()
            batch = self._take(step, stop)
            if batch is None:
                self._checkpointing.save_and_wait(step, cursor)
                raise Interrupted(f"stopped at version {step}; run again to resume")
            waited = time.monotonic() - started
            metrics = dict(batch.metrics) | self._learner.update(batch)
            self._skipped.note(str(self._run_dir.batch(step)), metrics["policy/skipped_steps"])
            step += 1
            self._wait_for_lagged_batch(step, stop)
            metrics |= self._publish(step)
            cursor = [batch.cursor.next_index, list(batch.cursor.outstanding)]
            self._checkpointing.save_if_due(step, cursor)
            metrics |= self._checkpointing.metrics()
            metrics["time/wait_s"] = waited
            metrics["time/step_s"] = time.monotonic() - started
            self._note_times(metrics)
            self._record(step, metrics)
        self._checkpointing.save_and_wait(step, cursor)
        if self._parallel.is_first and not self._is_replay:
            self._stage_ending.record(step)
        if ends_the_run(self._config, step):
            self._export()
            self._wait_for_last_evaluation(step, stop)

    def close(self) -> None:
        """Leave the generators' groups and flush what is written."""
        if self._publisher is not None:
            self._publisher.close()
        if self._telemetry is not None:
            self._telemetry.close()

    def _take(self, step: int, stop: StopRequest) -> Batch | None:
        """Wait for the batch of ``step``; None when asked to stop."""
        if self._wait_for("batch", step, stop) == "stop":
            return None
        return self._source.read(step, timeout_s=_NFS_VISIBILITY_TIMEOUT_S)

    def _wait_for_last_evaluation(self, step: int, stop: StopRequest) -> None:
        if self._is_replay or not self._held_out:
            return
        _LOG.info("rank %d waits for the evaluations of version %d", self._parallel.rank, step)
        if self._wait_for("evaluation", step, stop) == "stop":
            raise Interrupted("stopped before the last evaluation; run again to resume")

    def _wait_for(self, awaited: Awaited, step: int, stop: StopRequest) -> Event:
        """Wait, all ranks together, for the batch or evaluation of version ``step``, or a stop.

        A server that registers meanwhile gets the current weights: without it no server may be left
        to fill the batch, or to answer the evaluation, that is waited for.
        """
        while True:
            self._checkpointing.poll(wait=False)
            event = self._next_event.ask(awaited, step, wants_stop=stop.is_set)
            if event == "admit":
                self._publish(step)
            elif event is not None:
                return event

    def _wait_for_lagged_batch(self, version: int, stop: StopRequest) -> None:
        """Leave the servers the weights they have until the batch they sample is whole.

        For a fixed lag only. A server that comes back ends the wait: no server has the older
        weights for it any more, and without it the batch may never be whole.
        """
        lag = self._config.rollout.fixed_lag
        sampled = version - 1 + (lag or 0)
        if self._is_replay or not lag or sampled >= self._config.num_steps:
            return
        while self._next_event.ask("batch", sampled, wants_stop=stop.is_set) is None:
            self._checkpointing.poll(wait=False)

    def _publish(self, version: int) -> dict[str, float]:
        if self._publisher is None:
            return {}
        report = self._publisher.publish(version=version)
        if report is None:
            return {}
        return {
            "time/publish_s": report.seconds,
            "time/pause_s": report.pause_s,
            "publish/bytes": float(report.num_bytes),
            "publish/servers": float(report.num_servers),
            "publish/sharded_servers": float(report.num_sharded),
            "publish/received_bytes": float(report.received_bytes),
        }

    def _export(self) -> None:
        weights = self._learner.named_weights()
        if not self._parallel.is_first:
            _exhaust(weights)
            return
        write_hf_folder(
            self._run_dir.hf,
            weights,
            source=self._config.model.path,
            config_changes=exported_fields(self._config),
            max_shard_bytes=_EXPORT_SHARD_BYTES,
        )

    def _open_telemetry(self, step: int) -> None:
        if not self._parallel.is_first:
            return
        wanted = self._config.telemetry
        self._telemetry = open_telemetry(
            self._run_dir.metrics,
            tensorboard=self._run_dir.tensorboard / "learn" if wanted.tensorboard else None,
            wandb_project=wanted.wandb_project,
            run_name=self._run_dir.root.name,
            from_step=step,
        )

    def _note_times(self, metrics: Mapping[str, float]) -> None:
        self._deadline.note_step(metrics["time/step_s"])
        if "time/checkpoint_total_s" in metrics:
            self._deadline.note_save(metrics["time/checkpoint_total_s"])

    def _record(self, step: int, metrics: dict[str, float]) -> None:
        if self._telemetry is not None:
            self._telemetry.record(step, metrics)


def _exhaust(weights: Iterator[tuple[str, Tensor]]) -> None:
    """Take part in gathering weights that another rank sends."""
    for _ in weights:
        pass
