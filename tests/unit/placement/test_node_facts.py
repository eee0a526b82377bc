"""The verdict on nodes: every fault has a line with the node and the remedy."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.placement.node_facts import (
    NodeFacts,
    differing_versions,
    find_faults,
    from_lines,
    to_lines,
)

WELL = NodeFacts(
    node="n1",
    versions={"python": "3.11.9", "torch": "2.13.0"},
    gpus=8,
    memory_gb=900.0,
    shm_gb=100.0,
    write_mb_s=1500.0,
    read_mb_s=3000.0,
    skew_s=0.01,
)


def faults_of(**changes) -> list[str]:
    return find_faults({"n1": 8}, {"n1": replace(WELL, **changes)}, log="l", timeout_s=None)


def test_a_well_node_has_no_fault():
    assert faults_of() == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"gpus": 7},
            "n1: 7 of 8 GPUs answer; see nvidia-smi there, and leave the node out with sbatch "
            "--exclude=n1",
        ),
        ({"memory_gb": 1.25}, "n1: 1.2 GB of memory are free; end what else runs there"),
        (
            {"shm_gb": 0.064},
            "n1: 0.06 GB are free in /dev/shm; remove what is left there, or give the container "
            "more (--shm-size)",
        ),
        (
            {"write_mb_s": 4.0},
            "n1: the run folder is written at 4.0 MB/s; put run_dir on a faster file system",
        ),
        (
            {"skew_s": -3.0},
            "n1: its clock is -3.0 s off the head node's; start chrony or ntpd there",
        ),
        ({"problems": ["GPU 3 hangs; reset it"]}, "n1: GPU 3 hangs; reset it"),
    ],
)
def test_each_fault_names_node_and_remedy(changes, line):
    assert faults_of(**changes) == [line]


def test_a_folder_that_could_not_be_written_is_not_called_slow_as_well():
    assert faults_of(write_mb_s=0.0, problems=["it cannot be written"]) == [
        "n1: it cannot be written"
    ]


def test_a_node_that_does_not_answer_is_to_be_left_out():
    assert find_faults(
        {"n1": 8, "n2": 8}, {"n1": WELL}, log="/logs/doctor_1.log", timeout_s=60
    ) == [
        "n2: no answer within 60 s (launch.preflight_timeout_s); see /logs/doctor_1.log, and leave "
        "the node out with sbatch --exclude=n2"
    ]


def test_a_node_whose_check_ended_early_is_not_called_slow():
    (line,) = find_faults({"n2": 8}, {}, log="/logs/doctor.log", timeout_s=None)
    assert line.startswith("n2: no answer before its check ended, so it cannot be reached, or")
    assert "see /logs/doctor.log" in line


def test_the_node_that_differs_from_the_majority_is_the_one_named():
    old = replace(WELL, node="n3", versions={"python": "3.11.9", "torch": "2.12.0"})
    facts = {"n1": WELL, "n2": replace(WELL, node="n2"), "n3": old}
    assert differing_versions(facts) == [
        "n3: torch is 2.12.0, elsewhere it is 2.13.0; use one environment on a folder that all "
        "nodes see"
    ]


def test_a_package_that_only_some_nodes_need_is_no_difference():
    server = replace(WELL, node="n2", versions=WELL.versions | {"sglang": "0.5.21"})
    assert differing_versions({"n1": WELL, "n2": server}) == []


@given(st.lists(st.text(), max_size=40), st.randoms())
def test_facts_of_several_nodes_survive_a_log_that_mixes_their_lines(problems, random):
    facts = {name: replace(WELL, node=name, problems=problems) for name in ("n1", "n2", "n3")}
    lines = [line for found in facts.values() for line in to_lines(found, token="t")]
    stale = to_lines(replace(WELL, skew_s=9.0), token="of another check")
    lines += ["srun: something else", *stale]
    random.shuffle(lines)
    assert from_lines("\n".join(lines), token="t") == facts


@given(st.lists(st.text(max_size=200), max_size=40))
def test_no_line_is_longer_than_srun_passes_on_in_one_piece(problems):
    for line in to_lines(replace(WELL, problems=problems), token="0" * 16):
        assert len(line.encode()) < 1000


def test_facts_that_were_cut_off_are_no_answer():
    lines = list(to_lines(replace(WELL, problems=["x" * 2000]), token="t"))
    assert from_lines("\n".join(lines[:-1]), token="t") == {}
