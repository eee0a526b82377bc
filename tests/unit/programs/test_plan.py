"""What `plan` says before there is a node: the arithmetic of a step, memory, and nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_rl.config import resolve
from megatron_rl.errors import ConfigError, ModelError
from megatron_rl.parallelism.memory import Memory
from megatron_rl.programs.checks.learner_memory import describe_memory
from megatron_rl.programs.slurm_job.plan_text import describe_plan, with_nodes

ROOT = Path(__file__).parents[3]
MODEL = ROOT / "tests/released/Mistral-Small-24B"
GIB = 2**30


def run_of(**sections):
    data = {
        "run_dir": "run",
        "num_steps": 1,
        "model": {"path": str(MODEL)},
        "data": {"train": "train.jsonl"},
        "learner": {"num_processes": 16, "parallel": {"tp": 8, "sp": True}},
        "launch": {"nodes": 3},
        **sections,
    }
    return resolve(data)


def test_a_plan_says_what_a_step_is():
    rollout = {"n_batch": 1024, "n_minibatch": 512, "n_async": 2048}
    lines = describe_plan(run_of(rollout=rollout)).splitlines()
    assert lines[5:7] == [
        "nodes: 3, GPUs in use: 17 of 24",  # 16 ranks and a server
        "learner: tp 8 x pp 1 x cp 1 x dp 2",
    ]
    # 1024 / 2 replicas = 512; 2048 / 1024 = 2
    assert lines[9] == (
        "a step: 1024 completions, 512 an optimiser step, 512 a data-parallel rank; 2048 in flight "
        "(2 policies behind at most, about)"
    )


def test_a_plan_says_what_each_held_out_set_costs(tmp_path):
    path = tmp_path / "aime.jsonl"
    path.write_text('{"id": "0", "problem": "?", "answer": "2"}\n' * 30)
    sets = [
        {"name": "aime24", "path": str(path), "num_samples": 64, "max_new_tokens": 20_000},
        {"name": "code", "path": "gone.jsonl", "num_samples": 16, "every": 0, "top_p": 0.95},
    ]
    lines = describe_plan(run_of(num_steps=60, evaluation={"sets": sets})).splitlines()
    # Versions 20 and 40, and before and after: 4 times 30 x 64.
    assert lines[10:12] == [
        "held-out aime24: 30 problems x 64 = 1,920 completions of up to 20,000 tokens, temperature "
        "0.7, top-p 1; every 20 versions, before and after: 4 times in 60 steps, 7,680 completions",
        "held-out code: 16 completions of each problem (its file is not here) of up to 4,096 "
        "tokens, temperature 0.7, top-p 0.95; before and after: 2 times in 60 steps",
    ]


def test_memory_is_a_warning_when_less_than_the_reserve_is_left_and_never_a_refusal():
    memory = Memory(
        weights=10 * GIB,
        reference=0,
        gradients=20 * GIB,
        optimizer=30 * GIB,
        activations=0,
        logits=0,
    )
    (line,) = describe_memory(memory, gpu_memory_gb=None)
    assert line == (
        "memory of the fullest rank, estimated: 60.0 GiB (weights 10.0, gradients 20.0, optimizer "
        "30.0)"
    )
    assert len(list(describe_memory(memory, gpu_memory_gb=68.0))) == 1  # just the reserve of 8
    _, warning = describe_memory(memory, gpu_memory_gb=67.9)
    assert warning.startswith("warning: 60.0 GiB leave less than 8 of launch.gpu_memory_gb (67.9)")


def test_recomputation_and_a_kl_penalty_count():
    def total(**sections) -> float:
        (line,) = [x for x in describe_plan(run_of(**sections)).splitlines() if "fullest" in x]
        return float(line.split("estimated: ")[1].split()[0])

    learner = {"num_processes": 16, "parallel": {"tp": 8, "sp": True}}
    recomputed = {"megatron": {"recompute_granularity": "full"}}
    assert total(learner=learner | recomputed) < total(learner=learner)
    # A second set of 23.57e9 / 8 parameters of 2 bytes: 5.5 GiB.
    with_reference = total(algorithm={"kl_coefficient": 0.04})
    assert with_reference - total() == pytest.approx(5.5, abs=0.11)


def test_the_command_line_wins_over_the_file():
    launch = with_nodes(run_of(), nodes=5, gpus_per_node=4).launch
    assert (launch.nodes, launch.gpus_per_node) == (5, 4)
    assert with_nodes(run_of(), nodes=None, gpus_per_node=0).launch.nodes == 3


def test_an_illegal_layout_is_refused():
    learner = {"num_processes": 3, "parallel": {"tp": 3}}
    with pytest.raises(ConfigError, match=r"learner.parallel.tp \(3\) does not divide"):
        describe_plan(run_of(learner=learner))


def test_float32_servers_on_gpus_are_refused_before_there_is_a_node():
    model = {"path": str(MODEL), "dtype": "float32"}
    with pytest.raises(ConfigError, match=r'model.dtype \("float32"\) must be "bfloat16" or'):
        describe_plan(run_of(model=model))
    describe_plan(run_of(model=model, generators={"sglang": {"device": "cpu"}}))
    describe_plan(run_of(model=model, launch={"nodes": 1, "gpus_per_node": 0}))


def test_planning_imports_neither_torch_nor_megatron():
    code = (
        "import sys, megatron_rl.programs.plan, megatron_rl.programs.submit\n"
        "print(sorted({'torch', 'megatron', 'transformers', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_context_beyond_the_models_positions_is_refused_before_there_is_a_node():
    with pytest.raises(ConfigError, match=r"context_length \(40000\) must be <= max_position_emb"):
        describe_plan(run_of(generators={"context_length": 40_000}))


def test_a_server_size_that_does_not_divide_the_heads_is_refused_before_there_is_a_node():
    with pytest.raises(ConfigError, match=r"generators.tp \(3\) cannot cut this model in SGLang"):
        describe_plan(run_of(generators={"tp": 3}))
    # More ranks than the 8 heads of keys: SGLang repeats them.
    describe_plan(run_of(generators={"tp": 16, "nodes_per_server": 2}, launch={"nodes": 4}))
    # On CPUs SGLang pads what it cannot cut evenly.
    describe_plan(run_of(generators={"tp": 3, "sglang": {"device": "cpu"}}))


def test_weights_of_another_format_are_refused_before_there_is_a_node(tmp_path):
    (tmp_path / "config.json").write_text((MODEL / "config.json").read_text())
    model = {"path": str(tmp_path)}
    describe_plan(run_of(model=model))  # config.json alone is enough
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"pytorch_model.bin is pickled weights"):
        describe_plan(run_of(model=model))
    describe_plan(run_of(model=model | {"init": "random"}))


def test_an_adapter_is_named_as_what_it_is_though_it_has_no_config(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(ModelError, match=r"adapter_config.json is an adapter, which is no model"):
        describe_plan(run_of(model={"path": str(tmp_path)}))


def test_a_plan_names_the_sources_of_a_mixture_with_their_shares():
    train = [{"path": "a.jsonl", "weight": 3}, {"path": "b.parquet", "group_size": 8}]
    lines = describe_plan(run_of(data={"train": train})).splitlines()
    here = Path.cwd()
    assert [line for line in lines if line.startswith("source ")] == [
        f"source a: 75.0% of the groups, 16 completions each, from {here}/a.jsonl",
        f"source b: 25.0% of the groups, 8 completions each, from {here}/b.parquet",
    ]
