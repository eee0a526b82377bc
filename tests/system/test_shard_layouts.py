"""Shards to servers of other layouts than tensor parallelism: bit for bit what loaders would make.

The plug-in records each rank by itself, so neither the learner nor the plan knows of these layouts.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sglang_server import PYTHON, REPOSITORY, register, start_server, wait_until_ready
from test_published_weights import check
from test_shards import SHARDS, Learner, remember
from tiny_model import build_tiny_tokenizer

from megatron_rl.generation.server_command import PLUGIN, STANDINS
from megatron_rl.run_dir import RunDir
from megatron_rl.transfers import read_transfers
from tests.distributed.tiny_policy import CONFIG, MOE_CONFIG, SINKS_CONFIG
from tests.random_model import write_random_model

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.skipif(not PYTHON.exists(), reason="no serving environment in .venv-serve"),
]
CHECKER = Path(__file__).with_name("weight_checker_on_cpu")
BY_REPLICAS = REPOSITORY / "tests" / "serving_patches" / "attention_by_replicas"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A server of two ranks, and a learner."""

    config: dict[str, Any]
    layout: dict[str, Any]
    num_learner_ranks: int
    share: tuple[float, float]
    """Of all bytes, what a rank receives: more than the first, less than the second."""
    flags: list[str] = field(default_factory=list)
    patch: Path = CHECKER
    """Run inside the server."""
    generates: bool = True


REPLICAS = ["--dp-size", "2", "--enable-dp-attention"]
CASES = {
    # No attention of SGLang's for CPUs knows of sinks; this one it loads, and cannot compute with.
    "experts in one tensor": Case(
        config=SINKS_CONFIG | {"architectures": ["GptOssForCausalLM"], "swiglu_limit": 7.0},
        layout={"ep": 2, "pp": 2, "etp": 1},
        num_learner_ranks=4,
        share=(0.5, 0.75),
        flags=["--attention-backend", "intel_amx"],
        generates=False,
    ),
    # Each rank has all of attention, and its half of the rest.
    "attention by replicas": Case(
        config=CONFIG | {"architectures": ["Qwen3ForCausalLM"]},
        layout={"tp": 2},
        num_learner_ranks=2,
        share=(0.6, 0.9),
        flags=REPLICAS,
        patch=BY_REPLICAS,
    ),
    "experts and attention by replicas": Case(
        # Wide enough not to be padded before they are cut.
        config=MOE_CONFIG | {"architectures": ["Qwen3MoeForCausalLM"], "moe_intermediate_size": 64},
        layout={"ep": 2, "pp": 2, "etp": 1},
        num_learner_ranks=4,
        share=(0.5, 0.75),
        flags=REPLICAS,
        patch=BY_REPLICAS,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_server_of_another_layout_holds_the_export(case, tmp_path):
    model = write_random_model(case.config, tmp_path / "model")
    build_tiny_tokenizer().save_pretrained(model)
    run_dir = RunDir(tmp_path)
    variables = {
        "PYTHONPATH": f"{STANDINS}:{PLUGIN}:{case.patch}",
        "SGLANG_CPU_OMP_THREADS_BIND": "0|1",
    }
    server = start_server(
        model,
        tmp_path / "server.log",
        flags=[*SHARDS, "--tp", "2", *case.flags],
        variables=variables,
    )
    try:
        wait_until_ready(server)
        with Learner(model, tmp_path, case.layout, case.num_learner_ranks, rounds=2) as learner:
            learner.wait_for_export(0)
            register(run_dir, "server", server, tp=2, takes_shards=True)
            learner.proceed[0].touch()
            export = learner.wait_for_export(1)
            remember(server, export, instead=str(learner.exports[0]))
            learner.proceed[1].touch()
            reports = learner.learning.result()
        assert [report["num_sharded"] for report in reports] == [0, 1], read_transfers(run_dir)
        assert check(server, "compare") == ""
        least, most = (share * reports[1]["num_bytes"] for share in case.share)
        assert least < read_transfers(run_dir)["server"].rank_bytes < most
        if case.generates:  # also by the second replica
            answers = [server.generate(num_tokens=3) for _ in range(4)]
            seen = [answer["meta_info"]["weight_versions"] for answer in answers]
            assert {part["version"] for parts in seen for part in parts} == {"1"}
    finally:
        server.kill()
