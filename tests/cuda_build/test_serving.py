"""Command lines and requests of the project, read by the CUDA build of SGLang."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import transformers

from megatron_rl.config import load_config
from megatron_rl.errors import GeneratorRequestError
from megatron_rl.generation.client import SGLangClient
from megatron_rl.generation.server_command import check_dtype, server_argv
from megatron_rl.programs.builders.server import checked_flags, config_overrides, takes_shards
from megatron_rl.registry import ServerInfo
from megatron_rl.types import Sampling
from megatron_rl.weight_sync.admin import ServerAdmin

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("CUDA_BUILD_SERVE_PYTHON", ROOT / ".venv-serve/bin/python"))
"""Interpreter of the serving environment."""
EXAMPLES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/*/*.toml"))
BF16 = ["model.dtype=bfloat16"]


def has_cuda_build() -> bool:
    ask = [PYTHON, "-c", "import sglang, torch; assert torch.version.cuda"]
    return PYTHON.exists() and subprocess.run(ask, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(
    not has_cuda_build(), reason=f"{PYTHON} has no SGLang with torch's CUDA build"
)


class RecordingAdmin(ServerAdmin):
    """An admin client that keeps what it would send."""

    def __init__(self) -> None:
        super().__init__(
            ServerInfo(
                name="x",
                url="http://127.0.0.1:1",
                api_key="k",
                tp=1,
                incarnation="x",
                pid=1,
                starts_without_weights=True,
                takes_shards=False,
            )
        )
        self.sent: list[Any] = []

    def _call(self, method: str, route: str, payload: Any, timeout_s: float) -> dict[str, Any]:
        self.sent.append([method, route, payload])
        return {"weight_version": "0", "success": True}


def admin_requests() -> list[Any]:
    admin, tensor = RecordingAdmin(), {"name": "a", "dtype": "bfloat16", "shape": [2, 3]}
    admin.weight_version(timeout_s=1)
    admin.pause(timeout_s=1)
    admin.pause(timeout_s=1, discard=True)
    admin.resume(timeout_s=1)
    admin.abort_all(timeout_s=1)
    admin.join_group(
        group_name="g",
        master=("127.0.0.1", 1),
        first_rank=1,
        world_size=3,
        backend="nccl",
        timeout_s=1,
    )
    admin.leave_group("g", timeout_s=1)
    admin.label(3, timeout_s=1)
    admin.begin_update(timeout_s=1)
    admin.end_update(timeout_s=1)
    admin.receive([tensor], is_flat=False, group_name="g", timeout_s=1)
    admin.receive([tensor], is_flat=True, group_name="g", timeout_s=1)
    admin.load_folder("/folder", timeout_s=1)
    return admin.sent


def generate_request() -> list[Any]:
    """Return what the client sends, as a server sees it."""
    from aiohttp import ClientSession, web

    seen: list[Any] = []

    async def handle(request: web.Request) -> web.Response:
        seen.extend([request.method, request.path, await request.json()])
        return web.json_response({}, status=400)

    async def send() -> None:
        app = web.Application()
        app.router.add_post("/generate", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        async with ClientSession() as session:
            client = SGLangClient(
                session,
                f"http://127.0.0.1:{port}",
                api_key="k",
                max_attempts=1,
                backoff_s=0,
                timeout_s=30,
            )
            params = {"temperature": 1.0, "top_p": 0.9, "top_k": 8, "max_new_tokens": 4}
            sampling = Sampling(params=params, returns_support=True)
            with pytest.raises(GeneratorRequestError):
                await client.generate([1, 2], sampling, request_id="r", cache_key="3")
        await runner.cleanup()

    asyncio.run(send())
    return seen


def argv_of(example: str, folder: Path) -> list[str]:
    """Return the arguments that a GPU server of an example is started with."""
    config = load_config(ROOT / example, BF16)
    check_dtype(config.model.dtype, device="cuda")
    generators = config.generators.model_copy(update={"python": PYTHON})
    flags, known = checked_flags(generators)
    secret = folder / "secret.yaml"
    secret.write_text('{"api-key": "0"}')
    argv = server_argv(
        python=PYTHON,
        device="cuda",
        model_path=model_of(example, generators.context_length, folder),
        has_weights=False,
        takes_shards=takes_shards(config),
        dtype=config.model.dtype,
        config_overrides=config_overrides(config, has_weights=False),
        tp=generators.tp,
        host="127.0.0.1",
        port=30000,
        context_length=generators.context_length,
        secret_file=secret,
        version=0,
        flags=flags,
        known=known,
    )
    return list(argv[3:])


def model_of(example: str, context_length: int | None, folder: Path) -> Path:
    """Write the config.json of an example's model, or of a tiny one."""
    if "magistral" not in example:
        config = transformers.Qwen3Config(
            hidden_size=256, intermediate_size=512, num_hidden_layers=2, head_dim=64
        )
        config.architectures = ["Qwen3ForCausalLM"]
        config.save_pretrained(folder)
        return folder
    fields = json.loads((ROOT / "tests/released/Mistral-Small-24B/config.json").read_text())
    # The last stage needs a model that was trained for longer contexts.
    fields["max_position_embeddings"] = max(fields["max_position_embeddings"], context_length or 0)
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    argvs = {example: argv_of(example, tmp_path_factory.mktemp("serve")) for example in EXAMPLES}
    return {"argvs": argvs, "requests": [*admin_requests(), generate_request()]}


@pytest.fixture(scope="module")
def answers(questions, gpu):
    done = subprocess.run(
        [PYTHON, ROOT / "tests/cuda_build/serving_side.py"],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("example", EXAMPLES)
def test_arguments_of_every_example_are_understood(example, questions, answers):
    parsed = answers["arguments"][example]
    print(example, parsed)
    assert parsed["device"] == "cuda" and parsed["dtype"] == "bfloat16"
    assert parsed["disable_overlap_schedule"] is True
    assert parsed["load_format"] == "dummy" and parsed["weight_version"] == "0"
    config = load_config(ROOT / example, BF16)
    assert parsed["tp_size"] == config.generators.tp
    assert parsed["context_length"] == config.generators.context_length
    for flag, value in config.generators.sglang.items():
        name = flag.replace("-", "_")
        if name in parsed:
            assert parsed[name] == value, name


def test_every_request_has_fields_that_the_server_knows(questions, answers):
    faults = {
        f"{method} {route}": fault
        for (method, route, _), fault in zip(questions["requests"], answers["faults"], strict=True)
        if fault is not None
    }
    assert faults == {}
    assert len(answers["faults"]) == 14
