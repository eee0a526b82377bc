"""SGLang's own models with block FP8, family by family: what they hold so, and how shards reach it.

The models are built by SGLang as a server's ranks build them, and their loaders recorded. Shards of
a learner are then planned by these records, and what arrives is compared with the records' copies
of whole tensors.
"""

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from family_configs import (
    GEMMA3,
    GLM4,
    GLM4_MOE,
    LLAMA,
    MISTRAL,
    MIXTRAL,
    QWEN2,
    QWEN2_MOE,
    QWEN3,
    QWEN3_MOE,
)
from test_quantised_shards import move_by_map, random_weights

from megatron_rl.conversion.block_fp8.blocks import quantised_weights
from megatron_rl.conversion.block_fp8.tensors import (
    quantised_tensors,
    quantization_config,
    scale_name,
    served_tensors,
)
from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.resharding import ServerMap
from megatron_rl.generation.server_command import PLUGIN, STANDINS
from megatron_rl.parallelism.layouts import Layout

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-serve" / "bin" / "python"
PATCHES = ROOT / "tests" / "serving_patches" / "block_fp8"
pytestmark = [
    pytest.mark.lengthy,
    pytest.mark.system,
    pytest.mark.skipif(not PYTHON.exists(), reason="no serving environment in .venv-serve"),
]
SIZES = {
    **{"hidden_size": 256, "intermediate_size": 256, "head_dim": 128},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "moe_intermediate_size": 256},
    **{"shared_expert_intermediate_size": 256},
}
ONE_HEAD = {"num_key_value_heads": 1}
ARCHITECTURES = {
    "Gemma3ForCausalLM": GEMMA3,
    "Glm4ForCausalLM": GLM4,
    "Glm4MoeForCausalLM": GLM4_MOE,
    "MixtralForCausalLM": MIXTRAL,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen2MoeForCausalLM": QWEN2_MOE,
    "Qwen3ForCausalLM": QWEN3 | ONE_HEAD,  # which two ranks have a copy of
    "Qwen3MoeForCausalLM": QWEN3_MOE | ONE_HEAD,
}
REFUSED = {"LlamaForCausalLM": LLAMA, "MistralForCausalLM": MISTRAL}


def config_of(architecture: str) -> dict:
    config = (ARCHITECTURES | REFUSED)[architecture]
    sizes = {key: value for key, value in SIZES.items() if key in config}
    heads = ONE_HEAD if config["num_key_value_heads"] == 1 else {}
    return config | sizes | heads | {"architectures": [architecture]}


def recorded(folder: Path, architectures: list[str], tp: int) -> list[dict[str, dict]]:
    """Return, of each rank, what SGLang's models are and do, by architecture."""
    questions = [question_of(folder, architecture) for architecture in architectures]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = str(Path(__file__).with_name("recorded_sglang.py"))
    environment = os.environ | {
        "PYTHONPATH": f"{STANDINS}:{PLUGIN}:{PATCHES}",
        "SGLANG_USE_CPU_ENGINE": "1",
        "OMP_NUM_THREADS": "1",
        "TORCHDYNAMO_DISABLE": "1",
    }
    (folder / "questions.json").write_text(json.dumps(questions))
    ranks = []
    for rank in range(tp):
        with (
            (folder / "questions.json").open() as given,
            (folder / f"answers_{rank}").open("w") as said,
            (folder / f"log_{rank}").open("w") as log,
        ):
            command = [str(PYTHON), script, str(rank), str(tp), port]
            ranks.append(
                subprocess.Popen(command, stdin=given, stdout=said, stderr=log, env=environment)
            )
    codes = [process.wait(600) for process in ranks]
    assert codes == [0] * tp, (folder / "log_0").read_text()[-3000:]
    texts = [(folder / f"answers_{rank}").read_text() for rank in range(tp)]
    found = [json.loads(text.splitlines()[-1]) for text in texts]
    return [dict(zip(architectures, answers, strict=True)) for answers in found]


def question_of(folder: Path, architecture: str) -> dict:
    config = config_of(architecture)
    spec = model_spec(config)
    model = folder / architecture
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    served = served_tensors(spec, dtype="bfloat16", quantised=quantised_tensors(spec))
    return {
        "folder": str(model),
        "override": {"quantization_config": quantization_config(spec)},
        "tensors": [[t.name, t.dtype, list(t.shape)] for t in served],
    }


@pytest.fixture(scope="module", params=[1, 2])
def ranks(request, tmp_path_factory) -> list[dict[str, dict]]:
    return recorded(tmp_path_factory.mktemp("models"), list(ARCHITECTURES), request.param)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tensor_is_copied_in_its_own_type_and_nothing_else_is_fp8(architecture, ranks):
    spec = model_spec(config_of(architecture))
    served = {
        tensor.name: tensor.dtype
        for tensor in served_tensors(spec, dtype="bfloat16", quantised=quantised_tensors(spec))
    }
    seen = set()
    for rank in ranks:
        answer = rank[architecture]
        assert answer["unmapped"] == {}
        filled = set()
        for copy in ServerMap.from_json(json.dumps(answer["copies"])).copies:
            seen.add(copy.tensor)
            filled.add(copy.parameter)
            if "float8" in served[copy.tensor] + copy.to_dtype:
                assert served[copy.tensor] == copy.to_dtype
        eight_bits = {n for n, (dtype, _) in answer["parameters"].items() if "float8" in dtype}
        assert eight_bits
        assert {scale_name(name) for name in eight_bits} <= filled
    assert seen == served.keys()


class Parameters(torch.nn.Module):
    """Parameters of the names, types and shapes of a model of SGLang's."""

    def __init__(self, described: dict[str, list]) -> None:
        super().__init__()
        self.tensors = {
            name: torch.zeros(shape, dtype=getattr(torch, dtype))
            for name, (dtype, shape) in described.items()
        }

    def named_parameters(self, *_args, **_kwargs):
        for name, tensor in self.tensors.items():
            yield name, torch.nn.Parameter(tensor, requires_grad=False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_shards_arrive_where_sglangs_loaders_put_whole_tensors(architecture, tp, pp, ranks):
    spec = model_spec(config_of(architecture))
    if spec.num_groups % tp:
        pytest.skip("Megatron copies no head of keys")
    weights = random_weights(spec, seed=7)
    whole = dict(quantised_weights(weights.items(), quantised_tensors(spec)))
    layout = Layout(tp=tp, sp=False, pp=pp, vpp=1, cp=1, ep=1, etp=tp)
    for number, rank in enumerate(ranks):
        answer = rank[architecture]
        server_map = ServerMap.from_json(json.dumps(answer["copies"]))
        server, expected = (Parameters(answer["parameters"]) for _ in range(2))
        left_out = move_by_map(
            spec, layout, 2, weights, server, server_map, replica=number, bucket=1 << 16
        )
        for copy in server_map.copies:
            source = whole[copy.tensor].contiguous()
            part = source.as_strided(copy.shape, copy.strides, copy.offset)
            for model in [expected, *([server] if copy.tensor in left_out else [])]:
                target = model.tensors[copy.parameter]
                target.as_strided(copy.shape, copy.to_strides, copy.to_offset).copy_(part)
        for name, tensor in expected.tensors.items():
            found = server.tensors[name].contiguous().view(-1).view(torch.uint8)
            assert torch.equal(found, tensor.contiguous().view(-1).view(torch.uint8)), name
        # Gate and up of GLM-4 are one tensor, of which a rank has a part of each half.
        assert {name.split(".")[-2] for name in left_out} == (
            {"gate_up_proj"} if architecture == "Glm4ForCausalLM" and tp > 1 else set()
        )


def test_the_families_that_are_refused_still_leave_scales_out(tmp_path):
    """Once SGLang loads them, the rule may go: ``_WITHOUT_SCALES`` in quantized_servers.py."""
    (rank,) = recorded(tmp_path, list(REFUSED), 1)
    for architecture in REFUSED:
        answer = rank[architecture]
        seen = {copy[0] for copy in answer["copies"]} | answer["unmapped"].keys()
        names = quantised_tensors(model_spec(config_of(architecture)))
        assert names <= seen
        assert not any(scale_name(name) in seen for name in names)
