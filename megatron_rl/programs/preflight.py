"""The look at every node before a model is loaded; a refusal names the node and the remedy."""

import json
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_rl.config import RunConfig
from megatron_rl.errors import ProgramError
from megatron_rl.planning.preflight import ALL_REDUCE_RESULT, NodeFacts, find_faults
from megatron_rl.planning.roles import Kind, Node, Role
from megatron_rl.planning.srun import image_of
from megatron_rl.programs.job_steps import JobSteps
from megatron_rl.programs.node_check import TOKEN, ClockServer
from megatron_rl.run_dir import RunDir
from megatron_rl.slurm.step import Step

_TIMEOUT_S = 60.0
_POLL_S = 0.1


def check_nodes(
    config: RunConfig,
    nodes: Sequence[Node],
    roles: Sequence[Role],
    steps: JobSteps,
    *,
    tick: Callable[[], None],
) -> None:
    """Have every node look at itself, and the learner's nodes talk to each other.

    Args:
        nodes: of the job.
        roles: what will run there.
        steps: starts the look as steps of the job.
        tick: called while waiting; may raise.

    Raises:
        ProgramError: a node is not fit for the run; a line each with the remedy.
    """
    folder = RunDir(config.run_dir).preflight
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / TOKEN).write_text(secrets.token_hex(8))
    started = time.monotonic()
    write_rates: dict[str, float] = {}
    faults: list[str] = []
    with ClockServer() as clock:
        # One after another: two looks at a node would wait for each other's GPUs.
        for role in doctor_roles(config, nodes, roles, f"{nodes[0].name}:{clock.port}"):
            _wait([steps.start(role)], tick)
            facts = _read_facts(folder / role.name)
            wanted = dict.fromkeys(role.nodes, role.gpus_per_node)
            faults += find_faults(wanted, facts, timeout_s=_TIMEOUT_S)
            write_rates |= {node: found.write_mb_s for node, found in facts.items()}
    if faults:
        raise ProgramError("doctor", "preflight failed\n" + "\n".join(faults))
    slowest = min(write_rates.values())
    print(f"{len(write_rates)} nodes are well; the slowest writes {slowest:.0f} MB/s to {folder}")
    (learner,) = (role for role in roles if role.kind == "learner")
    if len(learner.nodes) > 1:
        _all_reduce(steps, learner, folder, tick)
    print(f"preflight took {time.monotonic() - started:.1f} s", flush=True)


def doctor_roles(
    config: RunConfig, nodes: Sequence[Node], roles: Sequence[Role], head: str
) -> list[Role]:
    """Return the steps that look at nodes: one for each image and component of the job."""
    looks: dict[tuple[int | None, int, str | None], dict[str, set[Kind]]] = {}
    by_name = {node.name: node for node in nodes}
    for role in roles:
        for name in role.nodes:
            node = by_name[name]
            key = (node.het_group, node.gpus, image_of(role, config.launch.container))
            looks.setdefault(key, {}).setdefault(name, set()).add(role.kind)
    found = []
    for index, ((group, gpus, _), kinds) in enumerate(looks.items()):
        union: list[Kind] = sorted({kind for there in kinds.values() for kind in there})
        found.append(
            Role(
                name="doctor" if len(looks) == 1 else f"doctor_{index}",
                program="doctor",
                # The image is that of any of the kinds.
                kind="generator" if union == ["generator"] else "rollout",
                nodes=tuple(kinds),
                tasks=len(kinds),
                gpus_per_node=gpus,
                cpus_per_task=1,
                options=("--node", head, *(word for kind in union for word in ("--kind", kind))),
                het_group=group,
            )
        )
    return found


def _all_reduce(steps: JobSteps, learner: Role, folder: Path, tick: Callable[[], None]) -> None:
    role = Role(
        name="all_reduce",
        program="doctor",
        kind="learner",
        nodes=learner.nodes,
        tasks=len(learner.nodes),
        gpus_per_node=min(1, learner.gpus_per_node),
        cpus_per_task=1,
        options=("--all-reduce",),
        het_group=learner.het_group,
    )
    step = steps.start(role)
    _wait([step], tick)
    if step.poll() != 0 or not (folder / ALL_REDUCE_RESULT).exists():
        raise ProgramError(
            "doctor",
            "preflight failed: the learner's nodes cannot talk to each other; check "
            f"NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME in launch.env.\n{step.failure()}",
        )
    result = json.loads((folder / ALL_REDUCE_RESULT).read_text())
    print(f"all-reduce over the learner's {result['nodes']} nodes: {result['gb_s']:.2f} GB/s")


def _wait(waiting: Sequence[Step], tick: Callable[[], None]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while any(step.poll() is None for step in waiting) and time.monotonic() < deadline:
        tick()
        time.sleep(_POLL_S)
    for step in waiting:
        if step.poll() is None:
            step.kill()


def _read_facts(folder: Path) -> dict[str, NodeFacts]:
    return {path.stem: NodeFacts(**json.loads(path.read_text())) for path in folder.glob("*.json")}
