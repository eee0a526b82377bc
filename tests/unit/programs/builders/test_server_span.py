"""Which node of its server a process is, by its Slurm step."""

import pytest

from megatron_rl.config import GeneratorsConfig
from megatron_rl.errors import ConfigError
from megatron_rl.generation.server_command import ONE_NODE, Span
from megatron_rl.programs.builders.server import span_of

STEP = {"MASTER_ADDR": "n3", "MASTER_PORT": "4001", "SLURM_PROCID": "1"}
SPANNING = GeneratorsConfig(tp=4, nodes_per_server=2)


def test_a_task_of_the_step_is_the_node_that_slurm_counts():
    assert span_of(SPANNING, STEP) == Span(num_nodes=2, node_rank=1, rendezvous="n3:4001")


def test_a_server_of_one_node_asks_nobody():
    assert span_of(GeneratorsConfig(tp=4), STEP) == ONE_NODE


@pytest.mark.parametrize("name", STEP)
def test_without_a_step_there_is_no_such_server(name):
    told = {key: value for key, value in STEP.items() if key != name}
    with pytest.raises(ConfigError, match=r"nodes_per_server \(2\) needs a Slurm job"):
        span_of(SPANNING, told)
