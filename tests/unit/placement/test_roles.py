"""Placement of every program: properties of any plan, and what a plan that cannot be says."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from megatron_rl.errors import ConfigError
from megatron_rl.placement.roles import Node, fewest_learner_nodes, plan_learner, plan_roles
from tests.unit.placement.slurm_cases import run_of


def nodes(count: int, *, gpus: int = 8, cpus: int = 64) -> list[Node]:
    return [Node(name=f"n{i + 1}", gpus=gpus, cpus=cpus) for i in range(count)]


def fitting_plan(config, there):
    try:
        return plan_roles(config, there)
    except ConfigError:
        assume(False)


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


@st.composite
def planned(draw):
    """Return a run that may or may not fit, and the nodes it is to run on."""
    gpus = draw(st.sampled_from([0, 1, 4, 8]))
    count = draw(st.integers(1, 6))
    tp = draw(st.sampled_from([1, 2, 4, 8]))
    server_tp = draw(st.sampled_from([1, 2, 4, 8, 16]))
    placement = {"rollout_node": draw(st.sampled_from(["first", "last"]))}
    for key in ("learner_nodes", "generator_nodes"):
        if draw(st.booleans()):
            placement[key] = draw(st.integers(1, count))
    config = run_of(
        launch={"nodes": count, "gpus_per_node": gpus, "placement": placement},
        learner={
            "num_processes": tp * draw(st.integers(1, 6)),
            "parallel": {"tp": tp, "sp": tp > 1},
            "cpu_threads": draw(st.integers(1, 4)),
        },
        generators={
            "num_servers": draw(st.integers(1, 8)),
            "tp": server_tp,
            # 1 more often than others, since it is the rule.
            "nodes_per_server": draw(st.sampled_from([1, 1, 1, *divisors(server_tp)])),
            "cpu_threads": draw(st.integers(1, 4)),
        },
        judge={"num_workers": draw(st.integers(0, 70))},
    )
    there = nodes(count, gpus=gpus, cpus=draw(st.integers(1, 130)))
    return config, there


@given(planned())
def test_any_plan_uses_every_gpu_and_cpu_at_most_once(case):
    config, there = case
    roles = fitting_plan(config, there)
    for node in there:
        here = [role for role in roles if node.name in role.nodes]
        assert sum(role.gpus_per_node for role in here) <= node.gpus
        per_node = [role.cpus_per_task * role.tasks // len(role.nodes) for role in here]
        assert sum(per_node) <= node.cpus


@given(planned())
def test_any_plan_has_all_ranks_all_servers_and_one_rollout(case):
    config, there = case
    learner, *servers, rollout = fitting_plan(config, there)
    names = {node.name for node in there}
    assert all(set(role.nodes) <= names for role in (learner, *servers, rollout))
    assert learner.tasks == config.learner.num_processes
    assert learner.tasks % len(learner.nodes) == 0
    assert learner.nodes[0] == "n1"  # MASTER_ADDR is where the batch script runs
    assert [server.name for server in servers] == [
        f"serve_{i}" for i in range(config.generators.num_servers)
    ]
    assert rollout.tasks == 1
    assert rollout.cpus_per_task >= 1


@given(planned())
def test_a_server_spans_the_neighbours_it_is_to_and_no_tensor_parallel_group_on_gpus_does(case):
    config, there = case
    learner, *servers, _ = fitting_plan(config, there)
    names, span = [node.name for node in there], config.generators.nodes_per_server
    for server in servers:
        first = names.index(server.nodes[0])
        assert list(server.nodes) == names[first : first + span]
        assert server.tasks == len(server.nodes) == span
    if there[0].gpus:
        assert all(server.gpus_per_node * span == config.generators.tp for server in servers)
        # Ranks fill nodes in order, so a group stays inside when tp divides the ranks of a node.
        assert learner.tasks // len(learner.nodes) % config.learner.parallel.tp == 0


@given(planned())
def test_the_cold_start_fits_where_the_learner_does(case):
    config, there = case
    learner, *_ = fitting_plan(config, there)
    sft = plan_learner(config, there, program="sft")
    assert sft == replace(learner, name="sft", program="sft")


def test_servers_go_where_no_learner_is_and_are_dealt_evenly():
    config = run_of(
        learner={"num_processes": 16}, generators={"num_servers": 6, "tp": 2}, launch={"nodes": 4}
    )
    learner, *servers, rollout = plan_roles(config, nodes(4))
    assert learner.nodes == ("n1", "n2")
    assert [server.nodes[0] for server in servers] == ["n3"] * 3 + ["n4"] * 3
    assert rollout.nodes == ("n4",)


def test_servers_that_span_nodes_fill_the_last_ones_in_blocks():
    config = run_of(
        learner={"num_processes": 8},
        generators={"num_servers": 3, "tp": 8, "nodes_per_server": 2},
        launch={"nodes": 6},
    )
    learner, *servers, rollout = plan_roles(config, nodes(6, cpus=64))
    assert learner.nodes == ("n1",)
    # n2 is left over: 4 + 4 of the 8 + 8 GPUs of a block, so two servers fit on it.
    assert [server.nodes for server in servers] == [("n3", "n4")] * 2 + [("n5", "n6")]
    assert {(server.tasks, server.gpus_per_node) for server in servers} == {(2, 4)}
    # 64 CPUs are 8 a GPU; rollout keeps 3 of n6: (64 - 3) // 8 = 7, even: 6
    assert [server.cpus_per_task for server in servers] == [4 * 8, 4 * 8, 4 * 6]
    assert all(server.ends_together for server in servers)
    assert rollout.nodes == ("n6",)


def test_servers_that_span_nodes_share_the_learners_where_no_others_are_left():
    config = run_of(
        learner={"num_processes": 4},
        generators={"tp": 8, "nodes_per_server": 2},
        launch={"nodes": 2},
    )
    learner, server, _ = plan_roles(config, nodes(2))
    assert learner.nodes == ("n1",) and learner.gpus_per_node == 4
    assert server.nodes == ("n1", "n2") and server.gpus_per_node == 4


def test_on_cpu_nodes_each_node_of_a_server_takes_the_threads_of_its_ranks():
    config = run_of(
        launch={"gpus_per_node": 0}, generators={"tp": 4, "nodes_per_server": 2, "cpu_threads": 3}
    )
    _, server, _ = plan_roles(config, nodes(3, gpus=0, cpus=16))
    assert server.nodes == ("n2", "n3")
    assert (server.gpus_per_node, server.cpus_per_task) == (0, 6)  # 4 / 2 ranks of 3 threads


def test_learner_and_servers_share_the_gpus_of_one_node():
    config = run_of(learner={"num_processes": 4}, generators={"num_servers": 4})
    learner, *servers, rollout = plan_roles(config, nodes(1, cpus=64))
    # rollout wants 2 + 1 worker; (64 - 3) // 8 = 7 CPUs a GPU, even: 6; 8 * 6 = 48
    assert [learner.cpus_per_task, *(s.cpus_per_task for s in servers)] == [6] * 5
    assert rollout.cpus_per_task == 3


def test_rollout_takes_at_most_a_quarter_of_a_full_gpu_node_for_a_crowd_of_workers():
    config = run_of(
        learner={"num_processes": 4}, generators={"num_servers": 4}, judge={"num_workers": 100}
    )
    learner, *_, rollout = plan_roles(config, nodes(1, cpus=64))
    assert learner.cpus_per_task == 6  # (64 - 64 // 4) // 8
    assert rollout.cpus_per_task == 64 - 8 * 6


def test_rollout_takes_what_others_leave_of_a_small_cpu_node():
    config = run_of(launch={"gpus_per_node": 0})
    *_, rollout = plan_roles(config, nodes(1, gpus=0, cpus=4))
    assert rollout.cpus_per_task == 2  # 4 - 1 rank - 1 server, of the 3 it could use


@pytest.mark.parametrize(
    ("ranks", "tp", "expected"),
    [
        (8, 8, 1),
        (12, 4, 3),  # 2 nodes of 6 ranks would split groups of 4
        (12, 2, 2),
        (9, 1, 3),  # 2 nodes do not hold as many each
        (16, 16, 2),  # no number of nodes keeps the groups whole
    ],
)
def test_the_learner_takes_the_fewest_nodes_that_hold_whole_groups(ranks, tp, expected):
    assert fewest_learner_nodes(ranks, gpus_per_node=8, tp=tp) == expected


TOO_SMALL = {
    "learner": (
        {"learner": {"num_processes": 32}},
        "learner.num_processes (32) takes 4 nodes of 8 GPUs, and there are 2; raise launch.nodes "
        "or lower learner.num_processes",
    ),
    "uneven": (
        {"learner": {"num_processes": 3}, "launch": {"placement": {"learner_nodes": 2}}},
        "learner.num_processes (3) must be a multiple of the 2 nodes of "
        "launch.placement.learner_nodes, which all get as many ranks",
    ),
    "more learner nodes than nodes": (
        {"launch": {"placement": {"learner_nodes": 3}}},
        "launch.placement.learner_nodes (3) is more than the 2 nodes there are; raise launch.nodes",
    ),
    "more server nodes than nodes": (
        {"launch": {"placement": {"generator_nodes": 3}}},
        "launch.placement.generator_nodes (3) is more than the 2 nodes there are; raise "
        "launch.nodes",
    ),
    "too many ranks a node": (
        {"learner": {"num_processes": 16}, "launch": {"placement": {"learner_nodes": 1}}},
        "16 learner ranks a node need as many GPUs, a node has 8; raise "
        "launch.placement.learner_nodes or lower learner.num_processes",
    ),
    "tp beyond a node": (
        {"learner": {"num_processes": 16, "parallel": {"tp": 16}}},
        "learner.parallel.tp (16) spans nodes that hold 8 ranks each; use at most tp = 8, and pp "
        "or cp across nodes",
    ),
    "split groups": (
        {
            "learner": {"num_processes": 12, "parallel": {"tp": 4}},
            "launch": {"placement": {"learner_nodes": 2}},
        },
        "6 learner ranks a node split tensor-parallel groups of 4 over nodes; make "
        "learner.parallel.tp divide them",
    ),
    "server beyond a node": (
        {"generators": {"tp": 16}},
        "generators.tp (16) is more than the 8 GPUs of a node; let a server span "
        "generators.nodes_per_server = 2, or use at most generators.tp = 8",
    ),
    "server beyond its nodes": (
        {"generators": {"tp": 48, "nodes_per_server": 2}},
        "generators.tp (48) is more than the 16 GPUs of generators.nodes_per_server (2) nodes; let "
        "a server span generators.nodes_per_server = 6, or use at most generators.tp = 16",
    ),
    "server on more nodes than there are": (
        {"generators": {"tp": 4, "nodes_per_server": 4}},
        "generators.nodes_per_server (4) is more than the 2 nodes there are; raise launch.nodes",
    ),
    "server on more nodes than are for servers": (
        {
            "generators": {"tp": 4, "nodes_per_server": 2},
            "launch": {"placement": {"generator_nodes": 1}},
        },
        "launch.placement.generator_nodes (1) must be >= generators.nodes_per_server (2)",
    ),
    "too many servers that span nodes": (
        {
            "learner": {"num_processes": 4},
            "generators": {"num_servers": 2, "tp": 8, "nodes_per_server": 2},
        },
        "generators.num_servers (2) of generators.tp 8 do not fit; there is room for 1 (n1+n2: 1). "
        "A server takes 2 nodes (generators.nodes_per_server); ask for more launch.nodes or fewer "
        "servers",
    ),
    "too many servers": (
        {"learner": {"num_processes": 8}, "generators": {"num_servers": 5, "tp": 2}},
        "generators.num_servers (5) of generators.tp 2 do not fit; there is room for 4 (n2: 4). A "
        "server takes 1 node (generators.nodes_per_server); ask for more launch.nodes or fewer "
        "servers",
    ),
}


@pytest.mark.parametrize("name", TOO_SMALL)
def test_what_does_not_fit_is_refused_with_key_value_and_remedy(name: str):
    settings, message = TOO_SMALL[name]
    config = run_of(**settings)
    with pytest.raises(ConfigError) as refusal:
        plan_roles(config, nodes(2))
    assert str(refusal.value) == message


def test_too_few_cpus_are_refused_since_srun_would_wait_for_ever():
    config = run_of(
        launch={"gpus_per_node": 0},
        learner={"num_processes": 2, "cpu_threads": 2},
        generators={"cpu_threads": 2},
    )
    with pytest.raises(ConfigError) as refusal:
        plan_roles(config, nodes(1, gpus=0, cpus=4))
    assert str(refusal.value) == (
        "n1 has 4 CPUs, and its programs take 7 (learn: 4, serve_0: 2, rollout: 1); raise "
        "launch.cpus_per_node or launch.nodes, or lower learner.cpu_threads or "
        "generators.cpu_threads"
    )
