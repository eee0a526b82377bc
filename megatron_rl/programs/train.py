"""``megatron-rl train``: run everything on one machine, one supervised process per program.

Servers start first, on placeholder weights, while the cold start runs: the learner publishes
weights to a server before anything is routed to it. A dead server is started again; when any other
program dies, all are stopped and the exit code says which it was. Running again resumes.
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from megatron_rl.config import RunConfig
from megatron_rl.errors import ConfigError
from megatron_rl.programs.builders.hardware import LocalGpus, visible_gpus
from megatron_rl.programs.builders.run_report import write_run_report
from megatron_rl.programs.campaign.current_stage import ends_the_run, final_stage, stages_left
from megatron_rl.programs.checks.validate_run import validate_local_run
from megatron_rl.programs.loops.barren_record import current_stretch
from megatron_rl.programs.loops.first_look import lines_of, recorded
from megatron_rl.programs.loops.selection import describe_selection
from megatron_rl.programs.processes.children import Child, Supervisor
from megatron_rl.programs.processes.ports import rendezvous_port
from megatron_rl.programs.processes.ranks import rank_environment
from megatron_rl.programs.processes.run_folder import (
    config_file,
    held_alone,
    is_complete,
    prepare_run_folder,
)
from megatron_rl.programs.processes.server_restarts import ServerRestarts
from megatron_rl.programs.processes.stopping import interrupted_by_signals
from megatron_rl.registry import read_policy_state, registered_servers
from megatron_rl.report.follow import JsonlFollower
from megatron_rl.report.progress import PHASES, ProgressDisplay
from megatron_rl.rollout.first_samples import warnings_of
from megatron_rl.run_dir import RunDir, append_jsonl
from megatron_rl.stage_record import read_stage_ends

_GRACE_S = 8.0
"""Time to save a checkpoint when stopped; the whole stop is to take less than 10 s."""
_POLL_S = 0.2
_HEADLINES = ("pass@1/before", "pass@1/after", "policy_versions", "rollout/spanning_fraction")


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Run to the end, write summary and report, return 0.

    Raises:
        ConfigError, DataError, ModelError: before anything is started; also when another launcher
            runs in the same folder.
        ProgramError: a program failed; its exit code says which.
        Interrupted: Ctrl-C or SIGTERM; running again resumes.
    """
    if options.only == "sft" and config.sft is None:
        raise ConfigError("--only sft: the configuration has no [sft] table; add one")
    # Tags of thoughts and paths may look like markup.
    console = Console(markup=False)
    validate_local_run(config)
    with held_alone(RunDir(config.run_dir)), interrupted_by_signals():
        prepare_run_folder(config)
        if options.only == "sft":
            LocalRun(config, console).execute_cold_start()
            console.print(f"model: {RunDir(config.run_dir).sft_hf}", soft_wrap=True)
            return 0
        if is_complete(final_stage(config)):
            # A long path would break the sentence, for whoever looks for it in a log.
            done = f"the run in {config.run_dir} is complete; nothing is left to do"
            console.print(done, soft_wrap=True)
        else:
            for stage in stages_left(config):
                run = LocalRun(stage, console)
                run.prepare()
                run.execute()
                _tell_end(stage, console)
    summary = write_run_report(config)
    console.print(f"report:  {RunDir(config.run_dir).report}")
    console.print(f"summary: {RunDir(config.run_dir).summary}")
    for name in _HEADLINES:
        console.print(f"  {name}: {summary[name]}")
    return 0


def _tell_end(stage: RunConfig, console: Console) -> None:
    if stage.stage is None:
        return
    ended = read_stage_ends(RunDir(stage.run_dir))[-1]
    sentence = (
        f'stage "{ended.name}" ended at step {ended.end}: {ended.reason}; '
        f"{ended.restarted_groups} groups in flight begin again"
    )
    console.print(sentence, soft_wrap=True)


class LocalRun:
    """The programs of one run, or of one stage of it, on this machine, phase after phase."""

    def __init__(self, config: RunConfig, console: Console) -> None:
        self._gpus = LocalGpus(
            visible_gpus(os.environ),
            num_learners=config.learner.num_processes,
            num_servers=config.generators.num_servers,
            server_tp=config.generators.tp,
        )
        self._config = _with_backend(config, self._gpus)
        self._run_dir = RunDir(config.run_dir)
        self._ends_the_run = ends_the_run(config, config.num_steps)
        self._display = ProgressDisplay(
            title=_title(config), phases=PHASES, console=console, clock=time.time
        )
        self._supervisor = Supervisor(grace_s=_GRACE_S)
        self._servers = ServerRestarts(
            self._run_dir,
            num_servers=config.generators.num_servers,
            max_restarts=config.generators.max_restarts,
            start=self._start_server,
        )
        self._metrics = JsonlFollower(self._run_dir.metrics)
        self._evaluations = JsonlFollower(self._run_dir.evaluations)
        self._sft_metrics = JsonlFollower(self._run_dir.sft / "metrics.jsonl")
        self._step = 0
        self._console = console
        # Of an earlier life of the run.
        self._is_looked = self._run_dir.first_samples.exists()

    def prepare(self) -> None:
        """Make the run folder ready."""
        prepare_run_folder(self._config)

    def execute(self) -> None:
        """Run every phase that is not done yet."""
        sft = self._config.sft
        with self._supervisor, self._display:
            if sft is not None and sft.select == "evaluation":
                # Candidates are served where servers of placeholder weights would be.
                self._cold_start(others=[])
                self._choose_start()
            self._servers.start_all()
            # It loads and tokenizes during the cold start, and waits for weights by itself.
            rollout = self._start("rollout", "rollout", [])
            self._cold_start(others=[rollout])
            self._train(self._start_ranks("learn"), rollout)

    def execute_cold_start(self) -> None:
        """Run the cold start alone, if it is not done yet."""
        with self._supervisor, self._display:
            self._cold_start(others=[])
            self._choose_start()

    def _choose_start(self) -> None:
        """Have evaluation choose the cold start's model, where that is not done."""
        if self._run_dir.is_cold_start_done:
            return
        choosing = self._start("select", "select", [], self._gpus.of_server(0))
        with self._phase("choosing its model", num_steps=None):
            while not self._all_done([choosing]):
                time.sleep(_POLL_S)
        for line in describe_selection(self._run_dir):
            self._console.print(line, soft_wrap=True)

    def _cold_start(self, *, others: list[Child]) -> None:
        """Train on demonstrations, where the run asks for it and it is not done."""
        if self._config.sft is None or self._run_dir.is_cold_start_done:
            return
        ranks = self._start_ranks("sft")
        with self._phase("cold start", num_steps=None):
            while not self._all_done(ranks):
                self._all_done(others)
                for record in self._sft_metrics.read_new():
                    self._display.set_num_steps(int(record["num_steps"]))
                    self._display.update(metrics=record, evaluations=(), status=self._status())
                self._tick()

    def _train(self, learners: list[Child], rollout: Child) -> None:
        with self._phase("starting servers", num_steps=None):
            # Nothing is served when all batches and evaluations are there already.
            # Nor by a learner that resumes where a rule has ended the stage.
            is_over = False
            while not is_over and not self._is_serving() and rollout.poll() is None:
                self._all_done([rollout])
                is_over = self._all_done(learners)
                self._tick()
        with self._phase("training", num_steps=self._config.num_steps):
            while not self._all_done(learners) and self._step < self._config.num_steps:
                self._all_done([rollout])
                self._show_progress()
                self._tick()
        if not self._ends_the_run or self._is_ended_by_rule():
            self._end_stage(learners)
            return
        with self._phase("evaluation", num_steps=None):
            while not self._all_done([*learners, rollout]):
                self._show_progress()
                self._tick()
            self._show_progress()

    def _is_ended_by_rule(self) -> bool:
        """Return whether a rule has ended the last stage, of which rollout does not know."""
        ends = read_stage_ends(self._run_dir)
        place = self._config.stage
        return (
            place is not None
            and len(ends) == place.of
            and not ends_the_run(self._config, ends[-1].end)
        )

    def _end_stage(self, learners: list[Child]) -> None:
        """Wait for the learner's checkpoint; what is in flight starts again in the next stage."""
        while not self._all_done(learners):
            self._show_progress()
            self._tick()

    def _is_serving(self) -> bool:
        state = read_policy_state(self._run_dir)
        return state is not None and len(state.servers) > 0

    def _show_first_samples(self) -> None:
        first = None if self._is_looked else recorded(self._run_dir.first_samples)
        if first is None:
            return
        self._is_looked = True
        for line in lines_of(first):
            self._console.print(f"first samples: {line}")
        for warning in warnings_of(first):
            self._console.print(f"WARNING: first samples: {warning}", style="bold yellow")

    def _show_progress(self) -> None:
        self._show_first_samples()
        metrics, evaluations = self._metrics.read_new(), self._evaluations.read_new()
        if metrics:
            self._step = int(metrics[-1]["step"])
        self._display.update(
            metrics=metrics[-1] if metrics else None,
            evaluations=evaluations,
            status=self._status(),
        )

    def _status(self) -> str:
        count = len(registered_servers(self._run_dir))
        servers = f"{count} of {self._config.generators.num_servers} servers up"
        barren = current_stretch(self._run_dir.barren)
        if barren is None:
            return servers
        return f"{servers}; nothing to learn: {barren.num_groups} groups dropped ({barren.cause})"

    def _tick(self) -> None:
        self._servers.watch()
        time.sleep(_POLL_S)

    def _all_done(self, children: list[Child]) -> bool:
        """Say whether all have finished; raise ProgramError when one has failed."""
        codes = {child: child.poll() for child in children}
        failed = [child for child, code in codes.items() if code not in (None, 0)]
        if failed:
            # When a rank is killed, those that talk to it fail too: it is the one to name.
            raise min(failed, key=lambda child: codes[child] >= 0).failure()
        return all(code == 0 for code in codes.values())

    @contextmanager
    def _phase(self, name: str, *, num_steps: int | None) -> Iterator[None]:
        self._display.start_phase(name, num_steps=num_steps)
        started = time.time()
        try:
            yield
        finally:
            record = {"phase": name, "start": started, "end": time.time()}
            append_jsonl(self._run_dir.phases, record)

    def _start_ranks(self, program: str) -> list[Child]:
        size, port = self._config.learner.num_processes, rendezvous_port()
        return [
            self._start(
                program,
                f"{program}_{rank}",
                [],
                rank_environment(rank, size, port) | self._gpus.of_learner(rank),
            )
            for rank in range(size)
        ]

    def _start_server(self, index: int) -> Child:
        return self._start(
            "serve",
            f"serve_{index}",
            ["--index", str(index), "--await-weights"],
            self._gpus.of_server(index),
        )

    def _start(
        self,
        program: str,
        name: str,
        options: list[str],
        environment: dict[str, str] | None = None,
    ) -> Child:
        return self._supervisor.start(
            program,
            name,
            [program, str(config_file(self._config)), *options],
            log=self._run_dir.logs / f"{name}.log",
            environment={} if environment is None else environment,
        )


def _title(config: RunConfig) -> str:
    name, place = RunDir(config.run_dir).root.name, config.stage
    return name if place is None else f"{name}, stage {place.number} of {place.of}: {place.name}"


def _with_backend(config: RunConfig, gpus: LocalGpus) -> RunConfig:
    """Settle on gloo where learner and servers share a GPU, unless the user chose."""
    if config.weights.backend != "auto" or not gpus.are_shared:
        return config
    weights = config.weights.model_copy(update={"backend": "gloo"})
    return config.model_copy(update={"weights": weights})
