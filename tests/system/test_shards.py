"""Real servers hold, bit for bit, what learner ranks at any layout send them by shards.

The first publication admits a server: SGLang's own path, then shards, compared by the product. The
later ones are shards alone, and are compared here, by SGLang's own checker, with what its loaders
make of an export of the same weights.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sglang_server import PYTHON, Server, register, start_server, wait_until_ready
from test_published_weights import CASES, FLAGS, check
from tiny_model import build_tiny_tokenizer
from tiny_run import HANGS_AFTER_S

from megatron_rl.generation.server_command import PLUGIN, STANDINS
from megatron_rl.registry import SHARD_LOADER, read_policy_state
from megatron_rl.run_dir import RunDir
from megatron_rl.transfers import read_transfers
from tests.distributed.ranks import free_port, run_on_ranks
from tests.random_model import write_random_model

pytestmark = [
    pytest.mark.system,
    pytest.mark.distributed,
    pytest.mark.skipif(not PYTHON.exists(), reason="no serving environment in .venv-serve"),
]
ON_CPU = {"PYTHONPATH": f"{STANDINS}:{PLUGIN}:{Path(__file__).with_name('weight_checker_on_cpu')}"}
SHARDS = [*FLAGS, "--custom-weight-loader", SHARD_LOADER]
LAYOUTS = {
    "dense": [
        ({"tp": 2}, 2),
        ({"tp": 2, "pp": 2, "etp": 2}, 4),
        ({"pp": 2, "vpp": 2}, 2),
        ({}, 2),
    ],
    "moe": [
        ({"ep": 2, "pp": 2, "etp": 1}, 4),
        ({"tp": 2, "sp": True, "ep": 2, "etp": 1}, 2),
    ],
}


@pytest.fixture(scope="module", params=["dense", pytest.param("moe", marks=pytest.mark.slow)])
def case(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(case, tmp_path_factory) -> Path:
    config, _ = CASES[case]
    folder = write_random_model(config, tmp_path_factory.mktemp("model"))
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def servers(model, tmp_path_factory) -> Iterator[dict[str, Server]]:
    logs = tmp_path_factory.mktemp("logs")
    with contextlib.ExitStack() as stack:
        tp2 = ON_CPU | {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
        started = {
            "tp1": start_server(model, logs / "tp1.log", flags=SHARDS, variables=ON_CPU),
            "tp2": start_server(
                model, logs / "tp2.log", flags=[*SHARDS, "--tp", "2"], variables=tp2
            ),
        }
        for server in started.values():
            stack.callback(server.kill)
        for server in started.values():
            wait_until_ready(server)
        yield started


class Learner:
    """Ranks in processes of their own, which publish when they are told to."""

    def __init__(
        self,
        model: Path,
        folder: Path,
        layout: dict,
        num_ranks: int,
        rounds: int,
        *,
        is_quantised: bool = False,
    ):
        self.exports = [folder / f"export_{i}" for i in range(rounds)]
        self.proceed = [folder / f"proceed_{i}" for i in range(rounds)]
        argument = {
            "port": free_port(),
            "layout": layout,
            "model": str(model),
            "exports": [str(path) for path in self.exports],
            "run_dir": str(folder),
            "proceed": [str(path) for path in self.proceed],
            "is_quantised": is_quantised,
        }
        self._pool = ThreadPoolExecutor(1)
        self.learning: Future[Any] = self._pool.submit(
            run_on_ranks,
            "publication_ranks:publish_shards",
            argument,
            num_ranks=num_ranks,
            timeout_s=HANGS_AFTER_S,
        )

    def __enter__(self) -> "Learner":
        return self

    def __exit__(self, *_) -> None:
        for path in self.proceed:  # also after a failure: the learner waits for it
            path.touch()
        self._pool.shutdown()

    def wait_for_export(self, index: int) -> str:
        # The folder appears whole.
        self.wait(self.exports[index].exists)
        return str(self.exports[index])

    def wait(self, is_there) -> None:
        while not is_there():
            assert not self.learning.done(), self.learning.result()
            time.sleep(0.05)


def remember(server: Server, export: str, *, instead: str) -> None:
    """Keep a copy of an export as the server's loaders leave it, beside other weights.

    Not beside random ones: padding that SGLang cleared at its start is nobody's to send.
    """
    server.call("/update_weights_from_disk", {"model_path": export, "load_format": "auto"})
    assert check(server, "snapshot") == ""
    server.call("/update_weights_from_disk", {"model_path": instead, "load_format": "auto"})
    assert "check tensor equality failed" in check(server, "compare")


def version_is(run_dir: RunDir, version: int, servers: int):
    def is_there() -> bool:
        state = read_policy_state(run_dir)
        return state is not None and state.version == version and len(state.servers) == servers

    return is_there


@contextlib.contextmanager
def admitted(
    model: Path,
    servers: dict[str, Server],
    run_dir: RunDir,
    layout: dict,
    num_ranks: int,
    *,
    rounds: int,
    start: str,
    is_quantised: bool = False,
) -> Iterator[Learner]:
    """Yield a learner whose first publication has admitted all servers; ``start`` is of these."""
    with Learner(
        model, run_dir.root, layout, num_ranks, rounds, is_quantised=is_quantised
    ) as learner:
        learner.wait_for_export(0)
        for name, server in servers.items():
            register(run_dir, name, server, f"{name} {start}", int(name[-1]), takes_shards=True)
        learner.proceed[0].touch()
        learner.wait_for_export(1)
        learner.wait(version_is(run_dir, 0, len(servers)))
        yield learner


@pytest.mark.parametrize("index", range(4))
def test_servers_hold_the_export_after_a_publication_by_shards(
    case, model, servers, tmp_path, index
):
    if index >= len(LAYOUTS[case]):
        pytest.skip("fewer layouts")
    layout, num_ranks = LAYOUTS[case][index]
    run_dir = RunDir(tmp_path)
    with admitted(
        model, servers, run_dir, layout, num_ranks, rounds=2, start=str(index)
    ) as learner:
        export = str(learner.exports[1])
        for server in servers.values():
            remember(server, export, instead=str(learner.exports[0]))
        learner.proceed[1].touch()
        reports = learner.learning.result()
    assert [report["num_sharded"] for report in reports] == [0, 2], read_transfers(run_dir)
    for name, server in servers.items():
        assert check(server, "compare") == "", name
    total = reports[1]["num_bytes"]
    transfers = read_transfers(run_dir)
    assert transfers["tp1"].rank_bytes == pytest.approx(total, rel=0.01)
    # Half of the matrices, and all norms. SGLang on a CPU pads the width of experts from 24 to 32,
    # so that one rank has 16 true columns of each and the other 8.
    most = {"dense": 0.75, "moe": 0.85}[case]
    assert 0.5 * total <= transfers["tp2"].rank_bytes < most * total


def test_sequences_in_flight_go_on_and_say_where_the_weights_changed(
    case, model, servers, tmp_path
):
    run_dir = RunDir(tmp_path)
    layout = {"tp": 2, "sp": case == "moe"}
    with admitted(model, servers, run_dir, layout, 2, rounds=2, start="flies") as learner:

        def sample(server: Server) -> list[Any]:
            """Sample one sequence after the other until the weights have changed."""
            answers = []
            while not learner.learning.done():
                answers.append(server.generate(num_tokens=90, prompt=[1, 2, 3], extra_key="0"))
            return answers

        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(sample, server) for server in servers.values()]
            time.sleep(0.2)
            learner.proceed[1].touch()
            reports = learner.learning.result()
            by_server = [future.result() for future in running]
    assert reports[1]["num_sharded"] == 2
    for answers in by_server:
        seen = [
            [part["version"] for part in answer["meta_info"]["weight_versions"]]
            for answer in answers
        ]
        assert all(versions in (["0"], ["0", "1"], ["1"]) for versions in seen)
        # The one that was running when the weights changed went on under the new ones.
        assert seen.count(["0", "1"]) == 1


def test_a_server_that_hangs_in_a_transfer_breaks_its_own_group_only(
    case, model, servers, tmp_path
):
    """Stopped before the second publication: it answers nothing until it goes on."""
    run_dir = RunDir(tmp_path)
    layout = {"tp": 2, "sp": case == "moe"}
    with admitted(model, servers, run_dir, layout, 2, rounds=3, start="hangs") as learner:
        scheduler = scheduler_of(servers["tp1"])
        os.kill(scheduler, signal.SIGSTOP)
        resume = threading.Timer(90.0, os.kill, [scheduler, signal.SIGCONT])
        resume.start()
        try:
            learner.proceed[1].touch()
            learner.wait(version_is(run_dir, 1, 1))
        finally:
            resume.cancel()
            os.kill(scheduler, signal.SIGCONT)
        assert set(read_policy_state(run_dir).servers) == {"tp2"}
        learner.wait_for_export(2)
        learner.proceed[2].touch()
        reports = learner.learning.result()
    # It comes back as any newcomer does: by whole tensors, and proves shards again.
    assert [report["num_servers"] for report in reports] == [2, 1, 2]
    assert [report["num_sharded"] for report in reports] == [0, 1, 1]


def test_a_server_that_is_killed_in_a_transfer_breaks_its_own_group_only(
    case, model, servers, tmp_path
):
    """Runs last: it spends a server. Killed once its update has begun, as the label says."""
    run_dir = RunDir(tmp_path)
    layout = {"tp": 2, "sp": case == "moe"}
    with admitted(model, servers, run_dir, layout, 2, rounds=3, start="dies") as learner:
        # Stopped first, so that it is still in its update when it is killed.
        os.kill(scheduler_of(servers["tp2"]), signal.SIGSTOP)
        killed = threading.Timer(1.0, servers["tp2"].kill)
        learner.proceed[1].touch()
        killed.start()
        learner.wait(version_is(run_dir, 1, 1))
        assert set(read_policy_state(run_dir).servers) == {"tp1"}
        export = learner.wait_for_export(2)
        remember(servers["tp1"], export, instead=str(learner.exports[0]))
        learner.proceed[2].touch()
        reports = learner.learning.result()
    assert [report["num_servers"] for report in reports] == [2, 1, 1]
    assert reports[2]["num_sharded"] == 1
    assert check(servers["tp1"], "compare") == ""


def scheduler_of(server: Server) -> int:
    """Return a process that computes, by its title."""
    group = os.getpgid(server.process.pid)
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (path / "cmdline").read_bytes()
            if b"scheduler" in title and os.getpgid(int(path.name)) == group:
                return int(path.name)
    raise AssertionError("the server has no scheduler")
