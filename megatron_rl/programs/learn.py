"""``megatron-rl learn``: batches to optimiser steps to published weights.

One process per rank, started by torchrun, by srun, or by ``megatron-rl train``. With ``--replay``
it trains on recorded batches and publishes nothing.
"""

import argparse
import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping

from torch import Tensor

from megatron_rl.batch import Batch
from megatron_rl.batch_files import FileBatchSource, prune_batches
from megatron_rl.config import RunConfig
from megatron_rl.errors import BatchFileError, Interrupted
from megatron_rl.hf_folder import write_hf_folder
from megatron_rl.learner.device.parallel import Parallel, shut_down_parallel
from megatron_rl.learner.device.platform import Platform
from megatron_rl.learner.learner import Learner
from megatron_rl.learner.rank_consensus import Agreement
from megatron_rl.programs.builders.learner import open_learner
from megatron_rl.programs.builders.model import first_weights
from megatron_rl.programs.builders.objective import objective_of
from megatron_rl.programs.builders.publisher import make_publisher
from megatron_rl.programs.loops.checkpointing import Saving
from megatron_rl.programs.loops.evaluation_schedule import is_last_recorded
from megatron_rl.programs.loops.nonfinite_steps import SkippedSteps
from megatron_rl.programs.processes.run_folder import write_config
from megatron_rl.programs.processes.stopping import Deadline, StopRequest
from megatron_rl.registry import withdraw_policy_state
from megatron_rl.run_dir import RunDir
from megatron_rl.telemetry import Telemetry, open_telemetry

_LOG = logging.getLogger(__name__)
_SIGHT_S = 90.0
"""Time within which every node sees a file: longer than any file system remembers otherwise."""
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
    minibatch = config.rollout.n_batch
    if config.rollout.n_minibatch is not None:
        minibatch = config.rollout.n_minibatch
    learner, parallel, platform = open_learner(
        config,
        config.learner.optimizer,
        objective=objective_of(config.algorithm),
        pretrained=first_weights(config),
        temperature=config.generators.sampling.temperature,
        total_steps=config.num_steps * (config.rollout.n_batch // minibatch),
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
        self._agreement = Agreement(parallel, platform.device)
        self._publisher = None
        if parallel.is_first and not is_replay:
            self._publisher = make_publisher(config, platform)
        self._telemetry: Telemetry | None = None
        kept = None if is_replay else config.checkpoint.keep_batches  # a recording stays
        self._saving = Saving(
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
        self._skipped = SkippedSteps(most=config.learner.max_skipped_steps)

    def run(self, stop: StopRequest) -> None:
        """Restore, publish, then take, update, publish, record and save until the last step."""
        if self._publisher is not None:
            withdraw_policy_state(self._run_dir)
        step, cursor = self._saving.restore()
        _LOG.info("rank %d starts at version %d", self._parallel.rank, step)
        if self._parallel.is_first:
            write_config(self._config)
        self._open_telemetry(step)
        self._publish(step)
        while step < self._config.num_steps:
            started = time.monotonic()
            batch = self._take(step, stop)
            if batch is None:
                self._saving.save_and_wait(step, cursor)
                raise Interrupted(f"stopped at version {step}; run again to resume")
            waited = time.monotonic() - started
            metrics = dict(batch.metrics) | self._learner.update(batch)
            self._skipped.note(str(self._run_dir.batch(step)), metrics["policy/skipped_steps"])
            step += 1
            self._hold_back(step, stop)
            metrics |= self._publish(step)
            cursor = [batch.cursor.next_index, list(batch.cursor.outstanding)]
            self._saving.save_if_due(step, cursor)
            metrics |= self._saving.metrics()
            metrics["time/wait_s"] = waited
            metrics["time/step_s"] = time.monotonic() - started
            self._note_times(metrics)
            self._record(step, metrics)
        self._saving.save_and_wait(step, cursor)
        self._export()
        self._attend_last_evaluation(step, stop)

    def close(self) -> None:
        """Leave the generators' groups and flush what is written."""
        if self._publisher is not None:
            self._publisher.close()
        if self._telemetry is not None:
            self._telemetry.close()

    def _take(self, step: int, stop: StopRequest) -> Batch | None:
        """Wait, all ranks together, for the batch of ``step``; None when asked to stop.

        A server that registers meanwhile gets the current weights: without it nobody may be left
        to fill the batch that is waited for.
        """
        while True:
            self._saving.look(wait=False)
            decision = self._agreement.decide(
                functools.partial(self._look, step), wants_stop=stop.is_set
            )
            if decision == "stop":
                return None
            if decision == "batch":
                return self._source.read(step, timeout_s=_SIGHT_S)
            if decision == "admit":
                self._publish(step)

    def _hold_back(self, version: int, stop: StopRequest) -> None:
        """Leave the servers the weights they have until the batch they sample is whole.

        For a fixed lag only. A server that comes back ends the wait: nobody has the older weights
        for it any more, and without it the batch may never be whole.
        """
        lag = self._config.rollout.fixed_lag
        sampled = version - 1 + (lag or 0)
        if self._is_replay or not lag or sampled >= self._config.num_steps:
            return
        look = functools.partial(self._look, sampled)
        while self._agreement.decide(look, wants_stop=stop.is_set) is None:
            self._saving.look(wait=False)

    def _attend_last_evaluation(self, step: int, stop: StopRequest) -> None:
        """Give the weights to servers that start again while the last evaluation needs them."""
        if self._is_replay or self._config.data.evaluation is None:
            return
        _LOG.info("rank %d waits for the evaluation of version %d", self._parallel.rank, step)
        while True:
            decision = self._agreement.decide(
                functools.partial(self._look_for_evaluation, step), wants_stop=stop.is_set
            )
            if decision == "stop":
                raise Interrupted("stopped before the last evaluation; run again to resume")
            if decision == "evaluated":
                return
            if decision == "admit":
                self._publish(step)

    def _look_for_evaluation(self, step: int) -> str | None:
        if is_last_recorded(self._run_dir, num_steps=step):
            return "evaluated"
        return self._look_for_server()

    def _look(self, step: int) -> str | None:
        if self._source.is_there(step):
            return "batch"
        if self._is_replay:
            raise BatchFileError(
                f"{self._run_dir.batch(step)}: not recorded; set num_steps = {step} to replay "
                "what is there"
            )
        return self._look_for_server()

    def _look_for_server(self) -> str | None:
        if self._publisher is not None and self._publisher.pending():
            return "admit"
        return None

    def _publish(self, version: int) -> dict[str, float]:
        if self._is_replay:
            return {}
        weights = self._learner.named_weights()
        if self._publisher is None:
            _exhaust(weights)
            return {}
        report = self._publisher.publish(weights, version=version)
        return {
            "time/publish_s": report.seconds,
            "time/pause_s": report.pause_s,
            "publish/bytes": float(report.num_bytes),
            "publish/servers": float(report.num_servers),
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
