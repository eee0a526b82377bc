"""A real server passes the learner's shards on to its sister, which has them bit for bit.

Then it is killed while it passes them on, and the learner sends to the sister in its place.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sglang_server import PYTHON, Server, register, start_server, wait_until_ready
from test_published_weights import CASES, check
from test_shards import ON_CPU, SHARDS, Learner, remember, scheduler_of, version_is
from tiny_model import build_tiny_tokenizer

from megatron_rl.registry import read_policy_state
from megatron_rl.run_dir import RunDir
from megatron_rl.transfers import read_transfers
from tests.random_model import write_random_model

pytestmark = [
    pytest.mark.system,
    pytest.mark.distributed,
    pytest.mark.skipif(not PYTHON.exists(), reason="no serving environment in .venv-serve"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    config, _ = CASES["dense"]
    folder = write_random_model(config, tmp_path_factory.mktemp("model"))
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def servers(model, tmp_path_factory) -> Iterator[dict[str, Server]]:
    logs = tmp_path_factory.mktemp("logs")
    with contextlib.ExitStack() as stack:
        started = {
            name: start_server(model, logs / f"{name}.log", flags=SHARDS, variables=ON_CPU)
            for name in ("first", "sister")
        }
        for server in started.values():
            stack.callback(server.kill)
        for server in started.values():
            wait_until_ready(server)
        yield started


def test_a_sister_has_what_is_passed_on_and_what_is_not(model, servers, tmp_path):
    """The learner has one rank, so that it sends to one server of two."""
    run_dir = RunDir(tmp_path)
    with Learner(model, tmp_path, {}, 1, 4) as learner:
        learner.wait_for_export(0)
        for name, server in servers.items():
            register(run_dir, name, server, name, 1, takes_shards=True)
        learner.proceed[0].touch()
        for version in (1, 2):
            export = learner.wait_for_export(version)
            for server in servers.values():
                remember(server, export, instead=str(learner.exports[version - 1]))
            learner.proceed[version].touch()
            learner.wait(version_is(run_dir, version, 2))
            for name, server in servers.items():
                assert check(server, "compare") == "", (name, version)
            transfers = read_transfers(run_dir)
            assert transfers["first"].feeder == ""
            assert transfers["sister"].feeder == "first"

        export = learner.wait_for_export(3)
        remember(servers["sister"], export, instead=str(learner.exports[2]))
        # Stopped first, so that it is still in its update when it is killed.
        os.kill(scheduler_of(servers["first"]), signal.SIGSTOP)
        killed = threading.Timer(1.0, servers["first"].kill)
        learner.proceed[3].touch()
        killed.start()
        reports = learner.learning.result()
        assert set(read_policy_state(run_dir).servers) == {"sister"}
        assert check(servers["sister"], "compare") == ""
    assert [report["num_sharded"] for report in reports] == [0, 2, 2, 1]
    assert read_transfers(run_dir)["sister"].feeder == ""
