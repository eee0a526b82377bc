"""A planned role as the srun command that runs it. Pure.

Slurm itself picks the GPUs and CPUs of a step: steps with ``--exact`` never share them, also with
steps of other jobs on the node, and each sees its own in CUDA_VISIBLE_DEVICES.
"""

from collections.abc import Sequence

from megatron_rl.config import ContainerConfig
from megatron_rl.planning.roles import Role

# srun reports 143 for a task that it ended because another had failed, so every task leaves its own
# exit code and the time. Signals are handed on to the program, which may take a while to act, and
# which ignores the first kind until it listens, lest it die of being told while it starts.
_STEP = """
record=$1; shift
trap '' USR1
"$@" & child=$!
trap 'signalled=1; kill -USR1 "$child" 2>/dev/null' USR1
trap 'signalled=1; kill -TERM "$child" 2>/dev/null' TERM
code=0
while signalled=; wait "$child" || code=$?; [[ -n $signalled ]]; do code=0; done
printf '%s %s\\n' "$code" "$(date +%s%N)" >"${record}_$SLURM_PROCID"
exit "$code"
"""


def srun_command(
    role: Role, command: Sequence[str], *, logs: str, exits: str, container: ContainerConfig
) -> list[str]:
    """Return the argument list of the step.

    Args:
        role: what to run where.
        command: the program and its arguments, as seen inside the container if there is one.
        logs: folder of the tasks' output, ``NAME.log`` or, for several tasks, ``NAME_TASK.log``.
        exits: folder in which each task leaves ``NAME_TASK``: its exit code and when it ended, in
            nanoseconds since the epoch.
    """
    per_node = role.tasks // len(role.nodes)
    log = role.name if role.kind != "learner" else f"{role.name}_%t"
    return [
        "srun",
        "--exact",
        "--kill-on-bad-exit=1",
        "--mem=0",
        f"--job-name={role.name}",
        *([] if role.het_group is None else [f"--het-group={role.het_group}"]),
        f"--nodes={len(role.nodes)}",
        f"--nodelist={','.join(role.nodes)}",
        f"--ntasks={role.tasks}",
        f"--ntasks-per-node={per_node}",
        f"--cpus-per-task={role.cpus_per_task}",
        "--distribution=block",
        f"--gpus-per-node={role.gpus_per_node}" if role.gpus_per_node else "--gres=none",
        "--input=none",
        f"--output={logs}/{log}.log",
        "--open-mode=append",
        *_pyxis(role, container),
        *("bash", "-c", _STEP.strip(), "step", f"{exits}/{role.name}"),
        *_apptainer(role, container),
        *command,
    ]


def image_of(role: Role, container: ContainerConfig) -> str | None:
    """Return the image a role runs in, None outside containers."""
    if container.runtime == "none":
        return None
    if role.kind == "generator" and container.generator_image is not None:
        return container.generator_image
    return container.learner_image


def _pyxis(role: Role, container: ContainerConfig) -> list[str]:
    if container.runtime != "pyxis":
        return []
    mounts = [f"--container-mounts={','.join(container.mounts)}"] if container.mounts else []
    return [f"--container-image={image_of(role, container)}", "--no-container-mount-home", *mounts]


def _apptainer(role: Role, container: ContainerConfig) -> list[str]:
    if container.runtime != "apptainer":
        return []
    binds = [f"--bind={mount}" for mount in container.mounts]
    nvidia = ["--nv"] if role.gpus_per_node else []
    image = image_of(role, container)
    assert image is not None
    return ["apptainer", "exec", *nvidia, *binds, image]
