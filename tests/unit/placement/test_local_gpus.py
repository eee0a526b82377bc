"""GPUs of local programs: apart while there are enough, shared when there are not."""

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
