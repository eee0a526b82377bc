"""A model that went to Megatron and back is served by SGLang and says what transformers says."""

import asyncio
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
import torch
from tiny_model import build_tiny_model, write_tiny_model
from tiny_run import HANGS_AFTER_S

from megatron_rl.config import load_config
from megatron_rl.generation.client import SGLangClient
from megatron_rl.programs.builders.server import run_local_server
from megatron_rl.registry import ServerInfo
from megatron_rl.types import Sampling

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv-serve" / "bin" / "python"
NUM_TOKENS = 24
PROMPTS = [[5, 6, 7], [300, 12, 44, 9, 101], list(range(2, 40)), [77]]

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no serving environment in .venv-serve"),
]


def convert(tool: str, *arguments: object) -> None:
    command = [sys.executable, REPOSITORY / "tools" / f"{tool}.py", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=HANGS_AFTER_S
    )
    assert done.returncode == 0, done.stderr


def greedy_by_transformers(prompt: list[int]) -> tuple[int, ...]:
    model, ids = build_tiny_model(seed=0), torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(NUM_TOKENS):
            token = model(ids).logits[0, -1].argmax()
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
    return tuple(ids[0, len(prompt) :].tolist())


async def greedy_by_server(info: ServerInfo) -> list[tuple[int, ...]]:
    sampling = Sampling(
        params={"temperature": 0.0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True}
    )
    async with aiohttp.ClientSession() as session:
        client = SGLangClient(
            session,
            info.url,
            api_key=info.api_key,
            max_attempts=2,
            backoff_s=0.1,
            timeout_s=HANGS_AFTER_S,
        )
        calls = (
            client.generate(prompt, sampling, request_id=f"r{i}", cache_key=None)
            for i, prompt in enumerate(PROMPTS)
        )
        return [tuple(completion.token_ids) for completion in await asyncio.gather(*calls)]


def test_a_converted_model_generates_the_greedy_tokens_of_transformers(tmp_path):
    source = write_tiny_model(tmp_path / "hf", seed=0)
    convert("convert_hf_to_megatron", source, tmp_path / "megatron")
    convert(
        *("convert_megatron_to_hf", tmp_path / "megatron", tmp_path / "back"),
        *("--max-shard-size", "500K", "--verify"),
    )
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 1
    (tmp_path / "run.toml").write_text(f"""
run_dir = "{tmp_path / "run"}"
num_steps = 1
model = {{path = "{tmp_path / "back"}", dtype = "float32"}}
data = {{train = "{tmp_path / "none.jsonl"}"}}
[generators]
python = "{PYTHON}"
context_length = 256
start_timeout_s = 200.0
sampling = {{max_new_tokens = {NUM_TOKENS}}}
""")
    with run_local_server(
        load_config(tmp_path / "run.toml", []), starts_without_weights=False
    ) as info:
        served = asyncio.run(greedy_by_server(info))
    expected = [greedy_by_transformers(prompt) for prompt in PROMPTS]
    assert served == expected
    assert len({token for tokens in expected for token in tokens}) > 10  # no constant answer
