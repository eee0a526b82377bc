"""Srun command of a planned role. Pure.

Slurm itself picks the GPUs and CPUs of a step: steps with ``--exact`` never share them, also with
steps of other jobs on the node, and each sees its own in CUDA_VISIBLE_DEVICES.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_rl.config import ContainerConfig
from megatron_rl.placement.roles import Role

# srun reports 143 for a task that it ended because another had failed, so every task leaves its own
# exit code and the time. Signals are forwarded to the program, which may take a while to act; it
# ignores SIGUSR1 until its handler is set, or a signal during its start would end it. Exit code 75
# (time is up) is hidden from srun, which would kill the ranks that still clean up. When a task has
# failed, Slurm sends SIGTERM to the others and waits for its KillWait; a program that ignores it is
# killed by this script. The loop reads from a pipe without data, since bash loses the status of a
# child that ends just when a signal interrupts its wait.
_STEP = """
record=$1; shift
child='' told='' follower=''
trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM
trap '' USR1
"$@" & child=$!
trap 'kill -USR1 "$child" 2>/dev/null' USR1
follow() {
    sleep 10
    for other in "${record}"_*; do
        read -r code _ <"$other"
        [[ $code == [1-9]* && $code != 75 ]] && kill -KILL "$child"
    done
}
exec {idle}<> <(:)
while kill -0 "$child" 2>/dev/null; do
    if [[ -n $told && -z $follower ]]; then
        kill -TERM "$child" 2>/dev/null
        follow &>/dev/null & follower=$!
    fi
    read -rt 0.2 -u "$idle"
done
wait "$child"; code=$?
[[ -n $told && $code == 137 ]] && code=143
printf '%s %s\\n' "$code" "$(date +%s%N)" >"${record}_$SLURM_PROCID" &&
    [[ $code == 75 ]] && code=0
exit "$code"
"""
_IMMEDIATE_S = 120
"""Time after which a step fails whose nodes, CPUs or GPUs are taken; longer than Slurm needs to
clean up after the previous step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepSettings:
    """Settings that all steps of a job share."""

    logs: str
    """Folder of the tasks' output, ``NAME.log`` or, for several tasks, ``NAME_TASK.log``."""
    exits: str
    """Folder in which each task leaves ``NAME_TASK``: its exit code and the time of its end,
    in nanoseconds since the epoch."""
    container: ContainerConfig
    gpu_gres: str | None
    """See launch.gpu_gres."""
    variables: Sequence[str]
    """Names of the variables that override an image's own."""
    container_name: str
    """Start of the names of unpacked images; empty when steps do not share images."""


def srun_command(role: Role, command: Sequence[str], settings: StepSettings) -> list[str]:
    """Return the argument list of the step.

    Args:
        role: the program and its nodes.
        command: the program and its arguments, as seen inside the container if there is one.
        settings: settings of all steps.
    """
    per_node = role.tasks // len(role.nodes)
    is_apart = role.kind == "learner" or (role.program == "serve" and role.tasks > 1)
    log = f"{role.name}_%t" if is_apart else role.name
    return [
        "srun",
        "--exact",
        "--export=ALL",
        f"--immediate={_IMMEDIATE_S}",
        f"--kill-on-bad-exit={int(role.ends_together)}",
        # A site's WaitTime would end ranks that export the model after another is done.
        "--wait=0",
        "--mem=0",
        f"--job-name={role.name}",
        *([] if role.het_group is None else [f"--het-group={role.het_group}"]),
        f"--nodes={len(role.nodes)}",
        f"--nodelist={','.join(role.nodes)}",
        f"--ntasks={role.tasks}",
        f"--ntasks-per-node={per_node}",
        f"--cpus-per-task={role.cpus_per_task}",
        "--cpu-bind=cores",
        "--distribution=block",
        gpu_option(role.gpus_per_node, settings.gpu_gres),
        "--input=none",
        f"--output={settings.logs}/{log}.log",
        "--open-mode=append",
        *_pyxis(role, settings),
        *("bash", "-c", _STEP.strip(), "step", f"{settings.exits}/{role.name}"),
        *_apptainer(role, settings.container),
        *command,
    ]


def gpu_option(count: int, gres: str | None) -> str:
    """Return the option, of sbatch and of srun, for this number of GPUs on each node."""
    if not count:
        return "--gres=none"
    return f"--gpus-per-node={count}" if gres is None else f"--gres={gres}:{count}"


def image_of(role: Role, container: ContainerConfig) -> str | None:
    """Return the image that a role runs in, None outside containers."""
    if container.runtime == "none":
        return None
    if role.kind == "generator" and container.generator_image is not None:
        return container.generator_image
    return container.learner_image


def _pyxis(role: Role, settings: StepSettings) -> list[str]:
    container = settings.container
    if container.runtime != "pyxis":
        return []
    kind: Literal["learn", "serve"] = "learn"
    if role.kind == "generator" and container.generator_image is not None:
        kind = "serve"
    # no_exec: a container of its own from the same files, and not a guest in that of another step,
    # which sees other GPUs.
    name = f"--container-name={settings.container_name}_{kind}:no_exec"
    variables = ",".join(settings.variables)
    return [
        f"--container-image={image_of(role, container)}",
        *([name] if settings.container_name else []),
        "--no-container-mount-home",
        *([f"--container-mounts={','.join(container.mounts)}"] if container.mounts else []),
        *([f"--container-env={variables}"] if variables else []),
    ]


def _apptainer(role: Role, container: ContainerConfig) -> list[str]:
    if container.runtime != "apptainer":
        return []
    binds = [f"--bind={mount}" for mount in container.mounts]
    nvidia = ["--nv"] if role.gpus_per_node else []
    image = image_of(role, container)
    assert image is not None
    return ["apptainer", "exec", *nvidia, *binds, image]
