"""The report on a Slurm job, from its run folder alone."""

import argparse
import json
from pathlib import Path

import pytest

from megatron_rl.errors import DataError
from megatron_rl.programs.loops.barren_record import BarrenRecord, current_stretch
from megatron_rl.programs.status import describe, main
from megatron_rl.registry import PolicyState, ServerInfo, publish_policy_state, register_server
from megatron_rl.rollout.barren import BarrenStretch
from megatron_rl.run_dir import RunDir, append_jsonl, read_jsonl, write_json
from megatron_rl.transfers import ServerTransfer, read_transfers, record_transfers

NOW = 10_000.0


def role(name: str, kind: str, nodes: list[str], **changes) -> dict:
    facts = {"tasks": 1, "gpus_per_node": 0, "since": NOW - 3700, "restarts": 0, "exit_code": None}
    return {"name": name, "kind": kind, "nodes": nodes, **facts, **changes}


def job(**changes) -> dict:
    facts = {
        "job": "42",
        "attempt": 1,
        "pid": 1,
        "nodes": ["n1", "n2", "n3", "n4", "n5"],
        "started": NOW - 3700,
        "deadline": NOW + 5400,
        "state": "training",
        "message": "",
        "updated": NOW - 2,
        "roles": [
            role("learn", "learner", ["n1", "n2", "n3", "n4"]),
            role("serve_0", "generator", ["n5"], restarts=2, since=NOW - 60),
            role("serve_1", "generator", ["n5"]),
            role("serve_2", "generator", ["n5"]),
            role("rollout", "rollout", ["n5"]),
            role("doctor", "generator", ["n1"], exit_code=0),
        ],
    }
    return {**facts, **changes}


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path / "run")
    write_json(run_dir.config, {"num_steps": 200})
    return run_dir


def register(run_dir: RunDir, index: int) -> None:
    info = ServerInfo(
        name=f"server_{index}",
        incarnation="i",
        url="http://h:1",
        api_key="k",
        pid=1,
        tp=1,
        starts_without_weights=True,
        takes_shards=False,
    )
    register_server(run_dir, info)


def test_the_sources_of_a_mixture_have_a_line_each(run_dir):
    numbers = {"reward": 0.3, "correct": 0.5, "length_mean": 20, "dropped": 0.25, "groups": 8}
    of_source = {f"source/gsm/{name}": value for name, value in numbers.items()}
    append_jsonl(run_dir.metrics, {"step": 16, "reward/total": 0.3, **of_source})
    assert "source gsm: reward 0.300, solved 50.0%, 20 tokens, 8 groups, 25% dropped" in list(
        describe(job(), run_dir, now=NOW)
    )


def test_everything_about_a_job_in_training(run_dir):
    register(run_dir, 0)
    register(run_dir, 1)
    publish_policy_state(run_dir, PolicyState(version=17, servers={"server_0": "i"}))
    numbers = {"rollout/staleness_mean": 0.75, "learner/tokens_per_s": 12345.6, "time/step_s": 61.2}
    append_jsonl(run_dir.metrics, {"step": 16, "reward/total": 0.3})
    append_jsonl(run_dir.metrics, {"step": 17, "reward/total": 0.4215, **numbers})
    append_jsonl(run_dir.evaluations, {"version": 10, "pass@1": 0.256})
    assert list(describe(job(), run_dir, now=NOW)) == [
        "job 42, attempt 1: training",
        "time to limit: 1:30:00",
        "step 17 of 200",
        "reward 0.421, staleness 0.75, learner tokens/s 12,346, seconds a step 61.2, "
        "pass@1 25.6% at version 10",
        "",
        "role     nodes          state              for      restarts",
        "learn    n1 ... n4 (4)  running            1:01:40  0",
        "serve_0  n5             serves version 17  0:01:00  2",
        "serve_1  n5             waits for weights  1:01:40  0",
        "serve_2  n5             loading            1:01:40  0",
        "rollout  n5             running            1:01:40  0",
        "doctor   n1             finished                    0",
    ]


def test_the_latest_score_of_each_held_out_set_is_told_in_the_order_of_the_configuration(run_dir):
    append_jsonl(run_dir.metrics, {"step": 17, "reward/total": 0.5})
    for name, place, version, score in (
        ("code", 1, 10, 0.5), ("aime24", 0, 10, 0.25), ("aime24", 0, 15, 0.75)
    ):  # fmt: skip
        record = {"version": version, "set": name, "place": place, "pass@1": score}
        append_jsonl(run_dir.evaluations, record)
    (line,) = [line for line in describe(job(), run_dir, now=NOW) if line.startswith("reward")]
    assert line == (
        "reward 0.500, pass@1 of aime24 75.0% at version 15, pass@1 of code 50.0% at version 10"
    )


def test_a_job_says_how_each_server_got_its_weights(run_dir):
    transfers = {
        "server_0": ServerTransfer(
            transport="shards", rank_bytes=23_600_000, seconds=0.125, reason=""
        ),
        "server_1": ServerTransfer(
            transport="broadcast",
            rank_bytes=47_100_000,
            seconds=0.0,
            reason="shards give other values in lm_head.weight",
        ),
    }
    record_transfers(run_dir, 17, transfers)
    assert read_transfers(run_dir) == transfers
    assert list(describe(job(), run_dir, now=NOW))[-3:] == [
        "",
        "weights of server_0: shards, 23.6 MB into its busiest rank, 0.12 s",
        "weights of server_1: whole tensors by broadcast, 47.1 MB into its busiest rank; "
        "not by shards: shards give other values in lm_head.weight",
    ]


def test_a_job_that_has_nothing_to_learn_says_so_until_it_has(run_dir):
    record = BarrenRecord(run_dir.barren)
    record.report(stretch())
    lines = list(describe(job(), run_dir, now=NOW))
    assert lines[3].startswith("nothing to learn: 512 groups in a row are dropped")
    assert lines[4].startswith("what to do: the policy has mastered these problems")
    record.report(stretch(num_groups=513, is_over=True))
    assert not any("nothing to learn" in line for line in describe(job(), run_dir, now=NOW))


def test_a_stretch_of_an_earlier_life_is_over_when_rollout_starts_again(run_dir):
    BarrenRecord(run_dir.barren).report(stretch())
    assert current_stretch(run_dir.barren) == stretch()
    BarrenRecord(run_dir.barren)
    assert current_stretch(run_dir.barren) is None
    assert len(list(read_jsonl(run_dir.barren))) == 2


def stretch(**changes) -> BarrenStretch:
    facts = {
        "num_groups": 512,
        "causes": {"all right": 500, "all wrong": 12},
        "cause": "all right",
        "reason": "the answer is right",
        "problem": "p1",
        "response": "<think>x</think>2",
        "cut_off": 0.25,
        "is_over": False,
    }
    return BarrenStretch(**facts | changes)


def test_a_failed_job_says_why_and_shows_no_time_left(run_dir):
    roles = [
        role("learn", "learner", ["n1"], exit_code=137),
        role("rollout", "rollout", ["n1"]),
    ]
    failed = job(state="failed", message="learn ended with exit code 137", roles=roles)
    assert list(describe(failed, run_dir, now=NOW)) == [
        "job 42, attempt 1: failed",
        "learn ended with exit code 137",
        "step 0 of 200",
        "",
        "role     nodes  state               for  restarts",
        "learn    n1     exit code 137            0",
        "rollout  n1     ended with the job       0",
    ]


def test_a_job_that_fell_silent_is_not_called_running(run_dir):
    first, *_ = describe(job(updated=NOW - 90), run_dir, now=NOW)
    assert first == (
        "job 42, attempt 1: training (no word for 0:01:30: ended by Slurm, or its node is lost; "
        "see scontrol show job 42)"
    )
    first, *_ = describe(job(updated=NOW - 90, state="done"), run_dir, now=NOW)
    assert first == "job 42, attempt 1: done"


def test_a_line_that_is_being_written_is_not_read(run_dir):
    append_jsonl(run_dir.metrics, {"step": 3})
    with run_dir.metrics.open("a") as file:
        file.write('{"step": 4, "rew')
    assert "step 3 of 200" in list(describe(job(), run_dir, now=NOW))


@pytest.mark.parametrize(
    ("state", "code"), [("done", 0), ("time is up", 0), ("failed", 1), ("training", 1)]
)
def test_the_exit_code_says_whether_the_job_is_well(run_dir, capsys, state, code):
    write_json(run_dir.job, job(state=state))  # NOW is long ago, so training is silence
    assert main(None, argparse.Namespace(target=str(run_dir.root))) == code
    assert f"attempt 1: {state}" in capsys.readouterr().out


def test_a_folder_without_a_job_is_told_from_a_broken_one(tmp_path):
    with pytest.raises(DataError, match=r"job.json: no Slurm job has started in this folder yet"):
        main(None, argparse.Namespace(target=str(tmp_path)))


def test_job_json_is_plain_json(run_dir):
    write_json(run_dir.job, job())
    assert json.loads(run_dir.job.read_text()) == job()
