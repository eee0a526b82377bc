"""Preflight checks of every node before a model is loaded; refusals name node and remedy."""

import dataclasses
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from megatron_rl.config import RunConfig
from megatron_rl.errors import ProgramError
from megatron_rl.placement.node_facts import (
    ALL_REDUCE_RESULT,
    NodeCheck,
    NodeFacts,
    differing_versions,
    find_faults,
    from_lines,
)
from megatron_rl.placement.roles import Kind, Node, Role
from megatron_rl.placement.srun import image_of
from megatron_rl.programs.slurm_job.head_node import HeadServer
from megatron_rl.programs.slurm_job.node_check import TOKEN
from megatron_rl.programs.slurm_job.steps import JobSteps
from megatron_rl.run_dir import RunDir, write_json
from megatron_rl.slurm.step import Step

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
        steps: starts the checks as steps of the job.
        tick: called while waiting; may raise.

    Raises:
        ProgramError: a node is not fit for the run; a line each with the remedy.
    """
    folder = RunDir(config.run_dir).preflight
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    token = secrets.token_hex(8)
    (folder / TOKEN).write_text(token)
    started = time.monotonic()
    found: dict[str | None, dict[str, NodeFacts]] = {}
    faults: list[str] = []
    with HeadServer() as head:
        check = NodeCheck(
            head=f"{nodes[0].name}:{head.port}",
            folder=str(folder),
            token=token,
            serving_python=str(config.generators.python),
            kinds=(),
            is_called=len(nodes) > 1,
        )
        for batch in batches(doctor_roles(config, nodes, roles, check)):
            running = {role.name: steps.start(role) for role in batch}
            is_over = _wait(list(running.values()), tick, config.launch.preflight_timeout_s)
            timeout_s = None if is_over else config.launch.preflight_timeout_s
            for role in batch:
                log = steps.logs / f"{role.name}.log"
                facts = from_lines(_text(log), token=token)
                _keep(folder / role.name, facts)
                found.setdefault(image_of(role, config.launch.container), {}).update(facts)
                wanted = dict.fromkeys(role.nodes, role.gpus_per_node)
                faults += find_faults(wanted, facts, log=str(log), timeout_s=timeout_s)
    for facts in found.values():
        faults += differing_versions(facts)
    if faults:
        raise ProgramError("doctor", "preflight failed\n" + "\n".join(faults))
    rates = {node: facts.write_mb_s for there in found.values() for node, facts in there.items()}
    print(f"{len(rates)} nodes are well; the slowest writes {min(rates.values()):.0f} MB/s")
    (learner,) = (role for role in roles if role.kind == "learner")
    if len(learner.nodes) > 1:
        _all_reduce(steps, learner, folder, tick, config.launch.preflight_timeout_s)
    print(f"preflight took {time.monotonic() - started:.1f} s", flush=True)


def batches(checks: Sequence[Role]) -> Iterator[list[Role]]:
    """Yield checks that run at once; two at one node would wait for each other's GPUs."""
    left = list(checks)
    while left:
        batch: list[Role] = []
        for role in left:
            if not any(set(role.nodes) & set(other.nodes) for other in batch):
                batch.append(role)
        left = [role for role in left if role not in batch]
        yield batch


def doctor_roles(
    config: RunConfig,
    nodes: Sequence[Node],
    roles: Sequence[Role],
    check: NodeCheck,
) -> list[Role]:
    """Return the steps that look at nodes: one for each image and component of the job.

    Args:
        check: what all of them look at; each adds the programs that run on its nodes.
    """
    checks: dict[tuple[int | None, int, str | None], dict[str, set[Kind]]] = {}
    by_name = {node.name: node for node in nodes}
    for role in roles:
        for name in role.nodes:
            node = by_name[name]
            key = (node.het_group, node.gpus, image_of(role, config.launch.container))
            checks.setdefault(key, {}).setdefault(name, set()).add(role.kind)
    found = []
    for index, ((group, gpus, _), kinds) in enumerate(checks.items()):
        union: list[Kind] = sorted({kind for there in kinds.values() for kind in there})
        found.append(
            Role(
                name="doctor" if len(checks) == 1 else f"doctor_{index}",
                program="check-node",
                # The image is that of any of the kinds.
                kind="generator" if union == ["generator"] else "rollout",
                nodes=tuple(kinds),
                tasks=len(kinds),
                gpus_per_node=gpus,
                cpus_per_task=1,
                options=(json.dumps(dataclasses.asdict(replace(check, kinds=union))),),
                het_group=group,
                reads_config=False,
                ends_together=False,
            )
        )
    return found


def _all_reduce(
    steps: JobSteps, learner: Role, folder: Path, tick: Callable[[], None], timeout_s: float
) -> None:
    role = Role(
        name="all_reduce",
        program="all-reduce",
        kind="learner",
        nodes=learner.nodes,
        tasks=len(learner.nodes),
        gpus_per_node=min(1, learner.gpus_per_node),
        cpus_per_task=1,
        het_group=learner.het_group,
    )
    step = steps.start(role)
    _wait([step], tick, timeout_s)
    if step.poll() != 0 or not (folder / ALL_REDUCE_RESULT).exists():
        raise ProgramError(
            "doctor",
            "preflight failed: the learner's nodes cannot talk to each other; check "
            f"NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME in launch.env.\n{step.failure()}",
        )
    result = json.loads((folder / ALL_REDUCE_RESULT).read_text())
    print(f"all-reduce over the learner's {result['nodes']} nodes: {result['gb_s']:.2f} GB/s")


def _wait(waiting: Sequence[Step], tick: Callable[[], None], timeout_s: float) -> bool:
    """Wait for the end of all; return whether it came in time, and end what still runs."""
    deadline = time.monotonic() + timeout_s
    while any(step.is_running for step in waiting) and time.monotonic() < deadline:
        tick()
        time.sleep(_POLL_S)
    late = [step for step in waiting if step.is_running]
    for step in late:
        step.kill()
    return not late


def _text(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def _keep(folder: Path, facts: dict[str, NodeFacts]) -> None:
    """Leave each node's facts for people."""
    for node, found in facts.items():
        write_json(folder / f"{node}.json", dataclasses.asdict(found))
