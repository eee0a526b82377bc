"""SGLang servers for tests, started as a person would start them, and their registration."""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_run import HANGS_AFTER_S

from megatron_rl.registry import ServerInfo, register_server
from megatron_rl.run_dir import RunDir
from tests.distributed.ranks import free_port

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv-serve" / "bin" / "python"
KEY = "a-key-for-tests"
PROMPT = list(range(10, 40))
FLAGS = [
    *("--device", "cpu", "--attention-backend", "torch_native", "--dtype", "float32"),
    *("--disable-overlap-schedule", "--disable-cuda-graph", "--sleep-on-idle"),
    *("--max-total-tokens", "16384", "--max-running-requests", "16"),
    *("--mem-fraction-static", "0.05", "--host", "127.0.0.1"),
]


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server of one model, with its process group."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path

    def call(self, route: str, payload: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self.url + route,
            data=None if payload is None else json.dumps(payload).encode(),
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=100) as response:
            return json.load(response)

    def generate(self, *, num_tokens: int, prompt: Sequence[int] = PROMPT, **options: str) -> Any:
        sampling = {"temperature": 1.0, "max_new_tokens": num_tokens, "ignore_eos": True}
        return self.call(
            "/generate",
            {
                "input_ids": list(prompt),
                "sampling_params": sampling,
                "return_logprob": True,
                **options,
            },
        )

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def start_server(
    model: Path, log: Path, *, flags: Sequence[str] = (), variables: Mapping[str, str] | None = None
) -> Server:
    """Start a server of a model folder, with more flags and environment variables."""
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY / "megatron_rl" / "serving_standins"),
        "SGLANG_USE_CPU_ENGINE": "1",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false",
        **({} if variables is None else variables),
    }
    command = [str(PYTHON), "-m", "sglang.launch_server", "--model-path", str(model)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, *FLAGS, *flags, "--port", str(port), "--api-key", KEY],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(process=process, url=f"http://127.0.0.1:{port}", log=log)


def wait_until_ready(server: Server) -> None:
    """Return once the server serves; AssertionError with the end of its log otherwise."""
    deadline = time.monotonic() + HANGS_AFTER_S
    while "fired up and ready" not in server.log.read_text(errors="replace"):
        assert server.process.poll() is None, server.log.read_text(errors="replace")[-2000:]
        assert time.monotonic() < deadline, server.log.read_text(errors="replace")[-2000:]
        time.sleep(0.2)


def register(
    run_dir: RunDir,
    name: str,
    server: Server,
    incarnation: str = "first",
    tp: int = 1,
    *,
    takes_shards: bool = False,
) -> None:
    """Name a server in the run folder, as ``serve`` does once it is healthy."""
    info = ServerInfo(
        name=name,
        incarnation=incarnation,
        url=server.url,
        api_key=KEY,
        pid=server.process.pid,
        tp=tp,
        starts_without_weights=False,
        takes_shards=takes_shards,
    )
    register_server(run_dir, info)
