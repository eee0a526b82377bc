"""Fixed ports of servers: looked at where the servers will be, or not at all."""

import socket
import sys
from pathlib import Path

import pytest

from megatron_rl.config import GeneratorsConfig, resolve
from megatron_rl.errors import ConfigError
from megatron_rl.placement.roles import Node
from megatron_rl.programs.checks.validate_run import _check_serving
from megatron_rl.programs.job import _for_several_nodes
from megatron_rl.slurm.allocation import Job


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_of_this_machine_that_is_taken_is_refused(taken):
    generators = GeneratorsConfig(python=Path(sys.executable), port=taken)
    with pytest.raises(ConfigError, match=f"port.*{taken}"):
        _check_serving(generators)


def test_ports_of_a_job_of_several_nodes_are_not_this_nodes(taken):
    data = {
        "run_dir": "run",
        "num_steps": 1,
        "model": {"path": "model"},
        "data": {"train": "train.jsonl"},
        "generators": {"python": sys.executable, "port": taken},
    }
    nodes = tuple(Node(name=name, gpus=0, cpus=8) for name in ("n1", "n2"))
    config = _for_several_nodes(resolve(data), Job(id="7", restarts=0, nodes=nodes))
    _check_serving(config.generators)
