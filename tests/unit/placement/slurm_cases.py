"""Runs on Slurm clusters of several makes, and their plans as text; the golden files hold these.

python tests/unit/placement/slurm_cases.py writes tests/golden/slurm anew; read the difference.
"""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_rl.config import RunConfig, resolve
from megatron_rl.config.site import add_site
from megatron_rl.placement.batch_script import batch_script
from megatron_rl.placement.cluster import planned_nodes
from megatron_rl.placement.roles import Node, plan_learner, plan_roles
from megatron_rl.placement.srun import StepSettings, srun_command
from megatron_rl.placement.table import placement_table
from megatron_rl.programs.slurm_job.plan_text import job_command

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests/golden/slurm"
SITES = ROOT / "launchers/slurm/sites"
PYTHON = "/shared/env/bin/python"
IMAGES = {"learner_image": "/images/learn.sqsh", "generator_image": "/images/serve.sqsh"}


def run_of(
    *,
    launch: dict[str, Any] | None = None,
    learner: dict[str, Any] | None = None,
    generators: dict[str, Any] | None = None,
    **sections: Any,
) -> RunConfig:
    """Return a run with these settings; the paths need not exist."""
    data = {
        "run_dir": "/shared/runs/one",
        "num_steps": 10,
        "model": {"path": "/shared/model"},
        "data": {"train": "/shared/train.jsonl"},
        "launch": {"python": PYTHON} | (launch or {}),
        "learner": learner or {},
        "generators": {"python": "/shared/env-serve/bin/python"} | (generators or {}),
        **sections,
    }
    return resolve(add_site(data))


def cases() -> dict[str, tuple[RunConfig, int]]:
    """Return, by name, a run and the CPUs its nodes turn out to have."""
    cpu = {"gpus_per_node": 0}
    eight = {
        "launch": {"nodes": 8, "signal_s": 600},
        "learner": {"num_processes": 32, "parallel": {"tp": 8, "sp": True}},
        "judge": {"num_workers": 8},
    }
    container = {"nodes": 2, "container": IMAGES | {"mounts": ["/shared:/shared", "/scratch"]}}
    return {
        "one_cpu_node": (run_of(launch=cpu | {"time": "20"}), 8),
        "three_cpu_nodes": (
            run_of(
                launch=cpu
                | {"nodes": 3, "placement": {"learner_nodes": 2, "generator_nodes": 2}}
                | {"cpus_per_node": 8, "when_time_is_up": "exit"},
                learner={"num_processes": 4},
                generators={"num_servers": 2},
            ),
            8,
        ),
        "eight_nodes_tp2": (run_of(**eight, generators={"num_servers": 16, "tp": 2}), 112),
        "eight_nodes_tp8": (run_of(**eight, generators={"num_servers": 4, "tp": 8}), 112),
        "eight_nodes_server_on_two": (
            run_of(**eight, generators={"num_servers": 2, "tp": 16, "nodes_per_server": 2}),
            112,
        ),
        "heterogeneous": (
            run_of(
                launch={
                    "nodes": 3,
                    "cpus_per_node": 96,
                    "placement": {"heterogeneous": True},
                    "partition": "gpu",
                    "rollout_partition": "cpu",
                    "account": "physics",
                },
                learner={"num_processes": 8},
                generators={"num_servers": 4, "tp": 4},
                judge={"num_workers": 30},
            ),
            96,
        ),
        "apptainer": (
            run_of(
                launch=container | {"container": container["container"] | {"runtime": "apptainer"}},
                learner={"num_processes": 8},
                generators={"num_servers": 8},
            ),
            64,
        ),
        "pyxis_two_images": (
            run_of(
                launch=container | {"container": container["container"] | {"runtime": "pyxis"}},
                learner={"num_processes": 8},
                generators={"num_servers": 8},
            ),
            64,
        ),
        **{
            f"site_{site}": (
                run_of(
                    launch={"site": str(SITES / f"{site}.toml"), "nodes": 2, "modules": ["own/1"]},
                    learner={"num_processes": 4},
                    generators={"num_servers": 4},
                ),
                288,
            )
            for site in ("modules", "pyxis")
        },
    }


def nodes_of(config: RunConfig, *, cpus: int) -> list[Node]:
    """Return the nodes as a job would find them."""
    return [node if node.cpus else replace(node, cpus=cpus) for node in planned_nodes(config)]


def plan_text(config: RunConfig, *, cpus: int) -> str:
    """Return what a dry run prints of placement and script, and the steps of the job."""
    nodes = nodes_of(config, cpus=cpus)
    roles = plan_roles(config, nodes)
    roles.append(plan_learner(config, nodes, program="sft"))
    script = batch_script(config, job_command(config, Path("/shared/run.toml"), ["num_steps=5"]))
    return "\n".join(
        [
            "# planned",
            placement_table(plan_roles(config, planned_nodes(config))),
            "",
            f"# in a job whose nodes have {cpus} CPUs",
            placement_table(roles),
            "",
            "# batch script",
            script,
            "# steps",
            *(line for role in roles for line in _step_lines(role, config)),
        ]
    )


def step_script() -> str:
    """Return the program around every task."""
    config = run_of()
    (_, script, *_) = _argv_after(config, "bash")
    return script + "\n"


def _argv_after(config: RunConfig, word: str) -> list[str]:
    argv = _argv(plan_roles(config, planned_nodes(config))[0], config)
    return argv[argv.index(word) + 1 :]


def _argv(role, config: RunConfig) -> list[str]:
    container = config.launch.container
    python = str(config.launch.python) if container.runtime == "none" else container.python
    return srun_command(
        role,
        [python, "-m", "megatron_rl", role.program, "/shared/runs/one/config.json", *role.options],
        StepSettings(
            logs="/shared/runs/one/logs/job_7/attempt_0",
            exits="/shared/runs/one/logs/job_7/attempt_0/exits",
            container=container,
            gpu_gres=config.launch.gpu_gres,
            variables=list(config.launch.env),
            container_name="megatron_rl_7" if container.unpack_once else "",
        ),
    )


def _step_lines(role, config: RunConfig) -> list[str]:
    words = ["STEP" if "\n" in word else shlex.quote(word) for word in _argv(role, config)]
    return [f"## {role.name}", *words, ""]


def golden_files() -> dict[str, str]:
    """Return what the files in tests/golden/slurm should hold, by name."""
    plans = {
        f"{name}.txt": plan_text(config, cpus=cpus) for name, (config, cpus) in cases().items()
    }
    return plans | {"step.sh": f"#!/bin/bash\n{step_script()}"}


def main() -> None:
    """Write every golden file anew."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for path in GOLDEN.glob("*"):
        path.unlink()
    for name, text in golden_files().items():
        (GOLDEN / name).write_text(text)


if __name__ == "__main__":
    main()
