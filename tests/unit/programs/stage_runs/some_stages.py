"""Stages that end in every way a stage can, for the runner to start as it starts the real ones."""

import os
import signal
import subprocess
import time

from megatron_rl.errors import ConfigError
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place
from megatron_rl.registry import ServerInfo, register_server, registered_servers
from megatron_rl.run_dir import RunDir

HERE = "tests.unit.programs.stage_runs.some_stages"
SLOW_S = 600


def passes(place: Place) -> Outcome:
    limit = Limit(at_most=2.0, reason="two is enough")
    return Outcome(
        figures=[Figure(name="one", value=1.0, unit="s", limit=limit)],
        notes=[f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"],
    )


def exceeds(place: Place) -> Outcome:
    limit = Limit(at_most=2.0, reason="two is enough")
    return Outcome(
        figures=[Figure(name="error", value=3.0, limit=limit), Figure(name="other", value=1.0)]
    )


def is_nan(place: Place) -> Outcome:
    limit = Limit(at_most=2.0, reason="two is enough")
    return Outcome(figures=[Figure(name="error", value=float("nan"), limit=limit)])


def skips(place: Place) -> Outcome:
    return Outcome(skipped="it needs what is not here")


def raises(place: Place) -> Outcome:
    print("about to divide")
    raise ZeroDivisionError("by nothing")


def refuses(place: Place) -> Outcome:
    raise ConfigError("some.key (1) must be 2; set it to 2")


def crashes(place: Place) -> Outcome:
    os.kill(os.getpid(), signal.SIGSEGV)
    return Outcome()


def hangs(place: Place) -> Outcome:
    with (place.folder / "pids").open("w") as file:
        child = subprocess.Popen(["sleep", str(SLOW_S)])
        file.write(f"{os.getpid()} {child.pid}\n")
    print("waiting for ever", flush=True)
    time.sleep(SLOW_S)
    return Outcome()


def keep(place: Place) -> Outcome:
    """Register this process as the server, and stay."""
    assert place.server_dir is not None
    register_server(
        RunDir(place.server_dir),
        ServerInfo(
            name="server_0",
            incarnation=str(os.getpid()),
            url="http://127.0.0.1:1",
            api_key="secret",
            pid=os.getpid(),
            tp=1,
            starts_without_weights=False,
            takes_shards=False,
        ),
    )
    time.sleep(SLOW_S)
    return Outcome()


def keep_dies(place: Place) -> Outcome:
    raise ConfigError("no room for a model; make some")


def asks(place: Place) -> Outcome:
    """Say which process serves."""
    return Outcome(figures=[Figure(name="server", value=_server_pid(place))])


def asks_and_crashes(place: Place) -> Outcome:
    _server_pid(place)
    raise ZeroDivisionError("by nothing")


def _server_pid(place: Place) -> int:
    assert place.server_dir is not None
    (info,) = registered_servers(RunDir(place.server_dir)).values()
    return info.pid
