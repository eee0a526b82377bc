"""``megatron-rl serve`` with the real server on the CPU: registered, private, gone when stopped."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from tiny_model import VOCAB_SIZE, write_tiny_model
from tiny_run import HANGS_AFTER_S, wait_for

from megatron_rl.generation.client import SGLangClient
from megatron_rl.registry import ServerInfo, registered_servers, request_restart
from megatron_rl.run_dir import RunDir
from megatron_rl.types import Completion, Sampling

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv-serve" / "bin" / "python"

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not PYTHON.exists(), reason="no serving environment in .venv-serve"),
]


def config_file(folder: Path, model: Path, *, port: int = 0) -> Path:
    path = folder / "run.toml"
    path.write_text(f"""
run_dir = "{folder / "run"}"
num_steps = 1
model = {{path = "{model}", dtype = "float32"}}
data = {{train = "{folder / "none.jsonl"}"}}
[generators]
python = "{PYTHON}"
port = {port}
context_length = 256
start_timeout_s = 200.0
sampling = {{max_new_tokens = 64}}
""")
    return path


def start(config: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "megatron_rl", "serve", str(config), "--index", "0"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_of(run_dir: RunDir) -> dict[int, str]:
    """Return the processes in the group of any server of this run, by pid."""
    stats = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            pid, rest = path.read_text().split(" (", 1)
            state, _, group = rest.rsplit(") ", 1)[1].split()[:3]
            command = (path.parent / "cmdline").read_text().replace("\0", " ")
            if state != "Z":
                stats[int(pid)] = (group, command)
    # The first process names the run; its workers rename themselves but share its group.
    groups = {g for g, c in stats.values() if f"{run_dir.servers}/" in c and "sglang" in c}
    return {pid: command for pid, (group, command) in stats.items() if group in groups}


def alive(pids: "set[int] | dict[int, str]") -> set[int]:
    running = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if ") Z " not in Path(f"/proc/{pid}/stat").read_text():
                running.add(pid)
    return running


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def generate(info: ServerInfo) -> list[Completion]:
    async def run() -> list[Completion]:
        async with aiohttp.ClientSession() as session:
            client = SGLangClient(
                session,
                info.url,
                api_key=info.api_key,
                max_attempts=2,
                backoff_s=0.1,
                timeout_s=HANGS_AFTER_S,
            )
            sampling = Sampling(
                params={"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8, "ignore_eos": True}
            )
            calls = (
                client.generate([5, 6, 7], sampling, request_id=f"r{i}", cache_key=None)
                for i in range(4)
            )
            return await asyncio.gather(*calls)

    return asyncio.run(run())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture
def serving(tmp_path: Path, model: Path) -> Iterator[tuple["subprocess.Popen[str]", RunDir]]:
    run_dir = RunDir(tmp_path / "run")
    program = start(config_file(tmp_path, model))
    try:
        wait_for(lambda: registered_servers(run_dir) or program.poll() is not None)
        yield program, run_dir
    finally:
        program.kill()
        program.communicate()


def test_a_server_is_private_while_it_serves_and_leaves_nothing_when_stopped(serving):
    program, run_dir = serving
    (info,) = registered_servers(run_dir).values()
    registration = run_dir.servers / "server_0.json"
    assert stat.S_IMODE(registration.stat().st_mode) == 0o600
    assert list(run_dir.servers.iterdir()) == [registration]  # the secret file is gone

    assert status_of(f"{info.url}/model_info") == 401
    completions = generate(info)
    for completion in completions:
        assert len(completion.token_ids) == 8 and completion.finish_reason == "length"
        assert all(0 <= token < VOCAB_SIZE for token in completion.token_ids)
        assert all(logprob <= 0 for logprob in completion.logprobs)
        assert completion.policy_versions == (0,) * 8
    assert len({completion.token_ids for completion in completions}) > 1

    processes = processes_of(run_dir)
    assert len(processes) >= 4  # the guard, the HTTP server, the scheduler and the detokenizer
    for pid, command in processes.items():
        assert info.api_key not in command
        assert info.api_key not in Path(f"/proc/{pid}/environ").read_text()
    log = (run_dir.logs / "server_0.log").read_text()
    assert "'api_key': '<api key>'" in log  # sglang prints its settings
    assert info.api_key not in log

    stopping = time.monotonic()
    program.send_signal(signal.SIGTERM)
    out, err = program.communicate(timeout=10)
    assert program.returncode == 0, err
    assert time.monotonic() - stopping < 10
    assert info.api_key not in out + err
    assert not alive(processes)
    assert not registered_servers(run_dir)


@pytest.mark.slow
def test_a_server_that_the_learner_wants_anew_ends_with_all_its_processes(serving):
    program, run_dir = serving
    (info,) = registered_servers(run_dir).values()
    processes = processes_of(run_dir)
    request_restart(run_dir, info, cause="a broadcast")
    _, err = program.communicate(timeout=15)
    assert program.returncode == 1
    assert "server_0 is to start again" in err
    assert not registered_servers(run_dir)
    assert not alive(processes)


@pytest.mark.slow
def test_a_server_that_dies_is_unregistered_and_reported(serving):
    program, run_dir = serving
    processes = processes_of(run_dir)
    server = next(pid for pid, command in processes.items() if "sglang.launch_server" in command)
    os.kill(server, signal.SIGKILL)
    _, err = program.communicate(timeout=15)
    assert program.returncode == 1
    assert "server_0 died with exit code -9; its last lines:" in err
    assert not registered_servers(run_dir)
    assert not alive(processes)


def test_nothing_outlives_a_launcher_that_is_killed(tmp_path, model):
    run_dir = RunDir(tmp_path / "run")
    program = start(config_file(tmp_path, model))
    wait_for(lambda: len(processes_of(run_dir)) >= 4)
    processes = processes_of(run_dir)
    program.kill()
    program.communicate()
    wait_for(lambda: not alive(processes), within_s=15)


def test_a_server_that_dies_while_starting_shows_its_last_lines(tmp_path, model):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).symlink_to(file)
    (broken / "config.json").unlink()
    (broken / "config.json").write_text('{"model_type": "qwen3", ')
    program = start(config_file(tmp_path, broken))
    _, err = program.communicate(timeout=HANGS_AFTER_S)
    assert program.returncode == 1
    assert "exited with code" in err and "its last lines:" in err and "config.json" in err
    assert not list((tmp_path / "run" / "servers").iterdir())


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path, model):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        program = start(config_file(tmp_path, model, port=port))
        _, err = program.communicate(timeout=HANGS_AFTER_S)
    assert program.returncode == 2
    assert f"generators.port: {port} is already in use on 127.0.0.1; set another one, or 0" in err
    assert not (tmp_path / "run" / "logs").exists()


@pytest.mark.slow
def test_a_port_that_the_server_loses_while_starting_is_no_end(tmp_path, model):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        config = config_file(tmp_path, model)
        with config.open("a") as file:
            file.write(f"sglang = {{nccl-port = {other.getsockname()[1]}}}\n")
        with start(config) as serve:
            try:
                assert serve.stdout is not None
                assert "starting again" in serve.stdout.readline()
                other.close()
                assert "server_0 serves at" in serve.stdout.readline()
            finally:
                serve.terminate()
                serve.wait(timeout=20)
