"""Plan of a Slurm job in words, and the command that its batch script runs."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_rl.config import (
    HeldOutSet,
    RunConfig,
    column_names,
    held_out_sets,
    planned_stages,
)
from megatron_rl.parallelism.layouts import check_world_size
from megatron_rl.placement.cluster import planned_nodes
from megatron_rl.placement.roles import plan_roles
from megatron_rl.placement.table import placement_table
from megatron_rl.programs.builders.model import checked_spec, layout_of
from megatron_rl.programs.campaign.current_stage import naming
from megatron_rl.programs.checks.learner_memory import describe_memory, estimate_learner_memory
from megatron_rl.programs.checks.planned_servers import check_planned_servers
from megatron_rl.programs.checks.server_memory import describe_server_memory
from megatron_rl.programs.checks.weight_transport import describe_weight_transport
from megatron_rl.programs.curriculum.shares import mixture_lines


def with_nodes(config: RunConfig, *, nodes: int | None, gpus_per_node: int | None) -> RunConfig:
    """Return the configuration with the numbers of the command line where given."""
    given = {"nodes": nodes, "gpus_per_node": gpus_per_node}
    update = {key: value for key, value in given.items() if value is not None}
    return config.model_copy(update={"launch": config.launch.model_copy(update=update)})


def describe_plan(config: RunConfig) -> str:
    """Return the placement table and the arithmetic of a step; of every stage, where there are."""
    texts = []
    for planned in planned_stages(config):
        place, head = planned.stage, ""
        if place is not None:
            steps = f"steps {place.first_step} to {planned.num_steps} at most"
            head = f"stage {place.number} of {place.of}, {place.name}: {steps}\n\n"
        with naming(planned):
            texts.append(head + _describe_stage(planned))
    return "\n\n".join(texts)


def _describe_stage(config: RunConfig) -> str:
    spec = checked_spec(config)
    layout = layout_of(config.learner.parallel)
    ranks = config.learner.num_processes
    check_world_size(layout, world_size=ranks)
    nodes = planned_nodes(config)
    roles = plan_roles(config, nodes)
    check_planned_servers(config, spec, roles)
    copies = ranks // (layout.tp * layout.pp * layout.cp)
    rollout, launch = config.rollout, config.launch
    minibatch = rollout.minibatch
    used = sum(role.gpus_per_node * len(role.nodes) for role in roles)
    there = sum(node.gpus for node in nodes)
    return "\n".join(
        [
            placement_table(roles),
            "",
            f"nodes: {len(nodes)}" + (f", GPUs in use: {used} of {there}" if there else ", no GPU"),
            f"learner: tp {layout.tp} x pp {layout.pp} x cp {layout.cp} x dp {copies}"
            + (f", ep {layout.ep}" if layout.ep > 1 else ""),
            *describe_memory(
                estimate_learner_memory(config, spec), gpu_memory_gb=launch.gpu_memory_gb
            ),
            *(
                ()
                if launch.gpu_memory_gb is None
                else describe_server_memory(config, spec, gpu_memory_gb=launch.gpu_memory_gb)
            ),
            describe_weight_transport(config, spec, on_cpu=not there),
            f"a step: {rollout.n_batch} completions, {minibatch} an optimiser step, "
            f"{rollout.n_batch / copies:g} a data-parallel rank; {rollout.n_async} in flight "
            f"({rollout.n_async / rollout.n_batch:g} policies behind at most, about)",
            *mixture_lines(config, None),
            *_evaluations(config),
            f"time: {launch.time}, asked to save {launch.signal_s} s before the end, then "
            + ("queued again" if launch.when_time_is_up == "requeue" else "exit code 75"),
        ]
    )


def _evaluations(config: RunConfig) -> Iterator[str]:
    """Yield what each held-out set costs over the run."""
    for held_out in held_out_sets(config):
        num_problems = _num_rows(held_out) if held_out.path.exists() else None
        during = (config.num_steps - 1) // held_out.every if held_out.every else 0
        times = during + 2
        yield (
            f"held-out {held_out.describe(num_problems=num_problems)}: {times} times in "
            f"{config.num_steps} steps"
            + (
                ""
                if num_problems is None
                else f", {times * num_problems * held_out.num_samples:,} completions"
            )
        )


def _num_rows(held_out: HeldOutSet) -> int:
    # Late: numpy, which a plan without the files has no use for.
    from megatron_rl.data.problem_file import chosen_rows, open_problem_file

    rows = open_problem_file(held_out.path, column_names(held_out.columns)).rows
    return len(chosen_rows(held_out.rows, len(rows), key=held_out.rows_key))


def overrides_of(options: argparse.Namespace) -> list[str]:
    """Return the settings of the command line, those with a short name included."""
    short = {
        "launch.nodes": options.nodes,
        "launch.gpus_per_node": options.gpus_per_node,
        "launch.time": None if options.time is None else f'"{options.time}"',
    }
    chosen = [f"{key}={value}" for key, value in short.items() if value is not None]
    return [*chosen, *options.overrides]


def job_command(config: RunConfig, path: Path, overrides: Sequence[str]) -> list[str]:
    """Return the command that the batch script runs."""
    settings = [word for setting in overrides for word in ("--set", setting)]
    python = str(config.launch.python)
    return [python, "-m", "megatron_rl", "job", str(path.absolute()), *settings]
