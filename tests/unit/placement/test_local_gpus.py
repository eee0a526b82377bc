"""GPUs of local programs: apart while there are enough, shared when there are not."""

import pytest

from megatron_rl.config import resolve
from megatron_rl.errors import ConfigError
from megatron_rl.placement.local_gpus import assign_gpus


def test_learners_come_first_and_servers_take_what_is_left():
    roles = assign_gpus(["0", "1", "2", "3"], num_learners=2, num_servers=1, server_tp=2)
    assert roles.learners == ("0", "1")
    assert roles.servers == (("2", "3"),)
    assert not roles.shares


def test_one_gpu_serves_everybody():
    roles = assign_gpus(["7"], num_learners=1, num_servers=2, server_tp=1)
    assert roles.learners == ("7",)
    assert roles.servers == (("7",), ("7",))
    assert roles.shares


def test_going_round_shares_only_what_is_missing():
    roles = assign_gpus(["0", "1"], num_learners=1, num_servers=2, server_tp=1)
    assert roles.servers == (("1",), ("0",))  # the second server comes round to the learner's
    assert roles.shares


@pytest.mark.parametrize(
    ("num_learners", "server_tp", "message"),
    [
        (3, 1, r"learner.num_processes \(3\) must be <= 2, the GPUs of this machine \(4,6\)"),
        (1, 4, r"generators.tp \(4\) must be <= 2, the GPUs of this machine \(4,6\)"),
    ],
)
def test_two_ranks_of_one_nccl_group_on_a_gpu_are_refused(num_learners, server_tp, message):
    with pytest.raises(ConfigError, match=message):
        assign_gpus(["4", "6"], num_learners=num_learners, num_servers=1, server_tp=server_tp)


def test_the_local_launcher_refuses_before_it_makes_a_folder(tmp_path, monkeypatch):
    from rich.console import Console

    from megatron_rl.programs.train import LocalRun

    config = resolve(
        {
            "run_dir": str(tmp_path / "run"),
            "num_steps": 1,
            "model": {"path": "model"},
            "data": {"train": "train.jsonl"},
            "learner": {"num_processes": 2},
        }
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match=r"learner.num_processes \(2\).*; lower it"):
        LocalRun(config, Console())
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    LocalRun(config, Console())  # CPU ranks connect over gloo
