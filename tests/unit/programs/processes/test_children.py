"""Children that finish, fail, hang, resist or multiply: none outlives its supervisor.

``python -m megatron_rl`` finds a stand-in program in the working folder; the processes are real.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from megatron_rl.errors import ProgramError
from megatron_rl.programs.processes.children import Supervisor

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 20.0
STAND_IN = """
    import os, signal, subprocess, sys, time

    behaviour, *rest = sys.argv[1:]
    if behaviour == "exit":
        for line in range(100):
            print("line", line)
        print(os.environ.get("GREETING"))
        sys.exit(int(rest[0]))
    if behaviour == "finish":
        def finish(*_):
            print("finished", flush=True)
            sys.exit(0)
        signal.signal(signal.SIGTERM, finish)
    if behaviour == "resist":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "multiply":
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("grandchild", grandchild.pid, flush=True)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Make the stand-in the program of this folder."""
    package = tmp_path / "stand_in" / "megatron_rl"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(textwrap.dedent(STAND_IN))
    monkeypatch.chdir(package.parent)
    return package.parent


@pytest.fixture
def log(tmp_path):
    return tmp_path / "logs" / "learn_0.log"


def start(supervisor, log, *arguments, environment=None):
    environment = {} if environment is None else environment
    return supervisor.start("learn", "learn_0", arguments, log=log, environment=environment)


def wait_for(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def until_ready(log):
    wait_for(lambda: log.exists() and "ready" in log.read_text())


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def grandchild_of(log):
    (line,) = (line for line in log.read_text().splitlines() if line.startswith("grandchild"))
    return int(line.split()[1])


def test_a_failure_carries_exit_code_and_the_end_of_the_log(stand_in, log):
    with Supervisor(grace_s=5) as supervisor:
        child = start(supervisor, log, "exit", "3", environment={"GREETING": "hello"})
        wait_for(lambda: child.poll() is not None)
        failure = child.failure()
    assert isinstance(failure, ProgramError)
    assert failure.exit_code == 12  # that of learn
    assert "learn_0 ended with exit code 3" in str(failure)
    shown, written = str(failure).splitlines()[1:], log.read_text().splitlines()
    assert 10 <= len(shown) < len(written)
    assert shown == written[-len(shown) :]
    assert shown[-1] == "hello"


def test_the_log_of_an_earlier_life_is_kept(stand_in, log):
    with Supervisor(grace_s=5) as supervisor:
        for _ in range(2):
            child = start(supervisor, log, "exit", "0")
            wait_for(lambda child=child: child.poll() == 0)
    assert log.read_text().count("line 7\n") == 2


def test_a_child_may_finish_what_it_does(stand_in, log):
    with Supervisor(grace_s=DEADLINE_S) as supervisor:
        child = start(supervisor, log, "finish")
        until_ready(log)
    assert child.poll() == 0
    assert "finished" in log.read_text()


def test_children_are_asked_together_and_not_waited_for_longer_than_needed(stand_in, tmp_path):
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    with Supervisor(grace_s=60) as supervisor:
        for log in logs:
            start(supervisor, log, "hang")
        for log in logs:
            until_ready(log)
        started = time.monotonic()
    assert time.monotonic() - started < 10


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace_period(stand_in, log):
    with Supervisor(grace_s=0.3) as supervisor:
        child = start(supervisor, log, "resist")
        until_ready(log)
        started = time.monotonic()
    assert time.monotonic() - started >= 0.3
    assert child.poll() == -signal.SIGKILL


def test_grandchildren_do_not_survive(stand_in, log):
    with Supervisor(grace_s=5) as supervisor:
        start(supervisor, log, "multiply")
        until_ready(log)
        grandchild = grandchild_of(log)
        assert is_running(grandchild)
    wait_for(lambda: not is_running(grandchild))


def test_grandchildren_of_a_child_that_died_by_itself_do_not_survive(stand_in, log):
    with Supervisor(grace_s=5) as supervisor:
        child = start(supervisor, log, "multiply")
        until_ready(log)
        os.kill(child.pid, signal.SIGKILL)
        wait_for(lambda: child.poll() is not None)
        grandchild = grandchild_of(log)
    wait_for(lambda: not is_running(grandchild))


def test_stopping_some_leaves_the_others_alone(stand_in, tmp_path):
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    with Supervisor(grace_s=5) as supervisor:
        one, other = (start(supervisor, log, "hang") for log in logs)
        for log in logs:
            until_ready(log)
        supervisor.stop([one])
        assert one.poll() == -signal.SIGTERM
        assert other.poll() is None
    assert other.poll() == -signal.SIGTERM


def test_an_error_inside_the_context_stops_the_children(stand_in, log):
    with pytest.raises(KeyError), Supervisor(grace_s=5) as supervisor:
        child = start(supervisor, log, "hang")
        until_ready(log)
        raise KeyError
    assert child.poll() == -signal.SIGTERM


def test_ctrl_c_at_the_terminal_reaches_only_the_launcher(stand_in, log):
    with Supervisor(grace_s=5) as supervisor:
        child = start(supervisor, log, "hang")
        until_ready(log)
        assert os.getpgid(child.pid) != os.getpgid(0)


def test_a_child_dies_with_a_launcher_that_is_killed(stand_in, tmp_path, log):
    launcher = tmp_path / "launcher" / "launch.py"
    launcher.parent.mkdir()
    launcher.write_text(
        textwrap.dedent(
            f"""
            import time
            from pathlib import Path
            from megatron_rl.programs.processes.children import Supervisor

            with Supervisor(grace_s=5) as supervisor:
                child = supervisor.start(
                    "learn", "learn_0", ["resist"], log=Path({str(log)!r}), environment={{}}
                )
                print(child.pid, flush=True)
                time.sleep(600)
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(launcher)],
        cwd=stand_in,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        child = int(process.stdout.readline())
        until_ready(log)
        assert is_running(child)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    wait_for(lambda: not is_running(child))
