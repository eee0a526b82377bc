"""Servers with block-FP8 weights hold what the learner quantises where its weights are, exactly.

SGLang's own loaders, parameters and updates, in real processes; two GEMM kernels, which exist for
GPUs and AMX only, are torch's (tests/serving_patches/block_fp8).
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sglang_server import PYTHON, Server, start_server, wait_until_ready
from test_published_weights import check
from test_shards import SHARDS, admitted, remember
from tiny_model import build_tiny_tokenizer

from megatron_rl.conversion.block_fp8.tensors import (
    quantised_tensors,
    quantization_config,
    scale_name,
)
from megatron_rl.conversion.families import model_spec, read_model_spec
from megatron_rl.generation.server_command import PLUGIN, STANDINS
from megatron_rl.hf_folder import WeightReader
from megatron_rl.run_dir import RunDir
from megatron_rl.transfers import read_transfers
from tests.distributed.ranks import free_port, run_on_ranks
from tests.distributed.tiny_policy import CONFIG, MOE_CONFIG
from tests.random_model import write_random_model

pytestmark = [
    pytest.mark.system,
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no serving environment in .venv-serve"),
]
PATCHES = Path(__file__).parents[1] / "serving_patches" / "block_fp8"
CHECKER = Path(__file__).with_name("weight_checker_on_cpu")
ON_CPU = {"PYTHONPATH": f"{STANDINS}:{PLUGIN}:{PATCHES}:{CHECKER}"}
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "initializer_range": 0.1,
}
CASES = {
    "dense": CONFIG | SIZES | {"architectures": ["Qwen3ForCausalLM"]},
    "moe": MOE_CONFIG
    | SIZES
    | {"architectures": ["Qwen3MoeForCausalLM"], "moe_intermediate_size": 256},
    # Two heads of keys are a block, which a learner of two ranks cuts.
    "cut blocks": CONFIG
    | SIZES
    | {
        "architectures": ["Qwen3ForCausalLM"],
        "num_attention_heads": 4,
        "head_dim": 64,
    },
}
LAYOUTS = {
    "dense": [({"tp": 2}, 2), ({"tp": 2, "pp": 2, "etp": 2}, 4)],
    "moe": [({"ep": 2, "pp": 2, "etp": 1}, 4)],
    "cut blocks": [({"tp": 2}, 2)],
}


@pytest.fixture(
    scope="module",
    params=["dense", *(pytest.param(name, marks=pytest.mark.slow) for name in list(CASES)[1:])],
)
def case(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(case, tmp_path_factory) -> Path:
    folder = write_random_model(CASES[case], tmp_path_factory.mktemp("model"))
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def servers(case, model, tmp_path_factory) -> Iterator[dict[str, Server]]:
    logs = tmp_path_factory.mktemp("logs")
    override = json.dumps({"quantization_config": quantization_config(model_spec(CASES[case]))})
    flags = [*SHARDS, "--dtype", "bfloat16", "--load-format", "dummy"]
    flags += ["--json-model-override-args", override]
    with contextlib.ExitStack() as stack:
        started = {"tp1": start_server(model, logs / "tp1.log", flags=flags, variables=ON_CPU)}
        if case != "cut blocks":  # SGLang would not cut them either
            tp2 = ON_CPU | {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
            started["tp2"] = start_server(
                model, logs / "tp2.log", flags=[*flags, "--tp", "2"], variables=tp2
            )
        for server in started.values():
            stack.callback(server.kill)
        for server in started.values():
            wait_until_ready(server)
        yield started


@pytest.mark.parametrize("index", range(2))
def test_servers_hold_what_they_would_load_of_a_quantised_checkpoint(
    case, model, servers, tmp_path, index
):
    if index >= len(LAYOUTS[case]):
        pytest.skip("fewer layouts")
    layout, num_ranks = LAYOUTS[case][index]
    # As a run has it: float32 in the learner, and 16 bits when they are quantised or sent.
    layout = layout | {"dtype": "bfloat16", "precision": "fp32"}
    run_dir = RunDir(tmp_path)
    with admitted(
        model,
        servers,
        run_dir,
        layout,
        num_ranks,
        rounds=2,
        start=str(index),
        is_quantised=True,
    ) as learner:
        exports = [str(export) for export in learner.exports]
        for server in servers.values():
            remember(server, exports[1], instead=exports[0])
        learner.proceed[1].touch()
        reports = learner.learning.result()
    transfers = read_transfers(run_dir)
    # Admission is the product's own proof: whole tensors and shards give the same fingerprints.
    assert [report["num_sharded"] for report in reports] == [0, len(servers)], transfers
    for name, server in servers.items():
        assert check(server, "compare") == "", name
    if case != "cut blocks":
        assert transfers["tp1"].rank_bytes == pytest.approx(reports[1]["num_bytes"], rel=0.02)
        plain = sum(path.stat().st_size for path in model.glob("*.safetensors")) / 2
        assert reports[1]["num_bytes"] < 0.65 * plain  # embedding and output layer stay 16 bits
    if index == 0:
        assert_log_probs_are_those_of_the_dequantised_weights(
            model, Path(exports[1]), servers, tmp_path
        )


def assert_log_probs_are_those_of_the_dequantised_weights(
    model: Path, export: Path, servers: dict[str, Server], folder: Path
) -> None:
    """A server of 16 bits has the same, bit for bit; a learner has them as it always does."""
    plain = write_dequantised(model, export, folder / "dequantised")
    flags = ["--skip-server-warmup", "--dtype", "bfloat16"]
    unquantised = start_server(plain, folder / "plain.log", flags=flags, variables=ON_CPU)
    try:
        wait_until_ready(unquantised)
        answer = servers["tp1"].generate(num_tokens=40, prompt=[1, 2, 3])
        sequence = [1, 2, 3, *answer["output_ids"]]
        theirs = prompt_log_probs(servers["tp1"], sequence)
        assert theirs == prompt_log_probs(unquantised, sequence)
    finally:
        unquantised.kill()
    argument = {"port": free_port(), "model": str(plain), "sequences": [sequence]}
    (ours,) = run_on_ranks("publication_ranks:score", argument, num_ranks=1)
    difference = (torch.tensor(ours) - torch.tensor(theirs)).abs()
    # As `check` allows for 16 bits: here one side computes in float32 from the same weights.
    assert len(ours) == len(sequence) - 1 and difference.mean() < 0.1


def prompt_log_probs(server: Server, sequence: list[int]) -> list[float]:
    """Return the log-prob of every token but the first, computed in one pass."""
    answer = server.call(
        "/generate",
        {
            "input_ids": sequence,
            "sampling_params": {"max_new_tokens": 1, "temperature": 1.0},
            "return_logprob": True,
            "logprob_start_len": 0,
            "extra_key": "scored",  # nothing of it is cached
        },
    )
    return [item[0] for item in answer["meta_info"]["input_token_logprobs"][1:]]


def write_dequantised(model: Path, export: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in model.iterdir():
        if path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    read = WeightReader(export)
    names = quantised_tensors(read_model_spec(model))
    weights = {}
    for name in read.shapes_and_dtypes():
        if name in names:
            values, scales = read(name), read(scale_name(name))
            spread = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)
            rows, cols = values.shape
            weights[name] = (values.float() * spread[:rows, :cols]).bfloat16().float()
        elif not name.endswith("_scale_inv"):
            weights[name] = read(name).float()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
