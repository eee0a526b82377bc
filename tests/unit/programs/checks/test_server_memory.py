"""Serving memory of a configuration: the flags that change it, and what does not fit."""

from pathlib import Path

import pytest

from megatron_rl.config import resolve
from megatron_rl.conversion.families import read_model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.programs.checks.server_memory import (
    describe_server_memory,
    estimate_server_memory,
)
from megatron_rl.programs.slurm_job.plan_text import describe_plan

MODEL = Path(__file__).parents[3] / "released/Mistral-Small-24B"
SPEC = read_model_spec(MODEL)


def run_of(**generators):
    return resolve(
        {
            "run_dir": "run",
            "num_steps": 1,
            "model": {"path": str(MODEL)},
            "data": {"train": "train.jsonl"},
            "learner": {"num_processes": 8, "parallel": {"tp": 8, "sp": True}},
            "generators": generators,
            "launch": {"nodes": 2, "gpu_memory_gb": 79.6},
        }
    )


def lines_of(**generators):
    return list(describe_server_memory(run_of(**generators), SPEC, gpu_memory_gb=79.6))


def tokens_of(**flags):
    return estimate_server_memory(run_of(sglang=flags), SPEC, gpu_memory_gb=79.6).num_tokens


def test_a_plan_says_what_a_server_holds():
    (line,) = [
        line for line in describe_plan(run_of(tp=2)).splitlines() if line.startswith("a server")
    ]
    assert line.startswith("a server, estimated: weights 22.0 of 79.6 GiB a GPU, cache of ")


def test_completions_that_wait_are_counted():
    first, second = lines_of(tp=2, context_length=16384, sampling={"max_new_tokens": 16000})
    assert "completions of max_new_tokens (16000)" in first
    assert second.startswith("of rollout.n_async (")


def test_flags_of_sglang_change_the_estimate():
    assert tokens_of(**{"kv-cache-dtype": "fp8_e5m2"}) == pytest.approx(2 * tokens_of(), abs=1)
    assert tokens_of(**{"mem-fraction-static": 0.7}) < tokens_of()


def test_a_server_that_cannot_hold_one_sequence_is_refused_with_the_remedy():
    with pytest.raises(ConfigError) as caught:
        lines_of(context_length=32768, sglang={"mem-fraction-static": 0.6})
    assert str(caught.value).startswith("a server with generators.tp (1) holds ")
    assert "less than one sequence of the context length (32768)" in str(caught.value)
    assert str(caught.value).endswith(
        "set generators.tp = 2, or a smaller generators.context_length"
    )


def test_a_limit_on_tokens_is_a_limit():
    with pytest.raises(ConfigError, match=r"4,096 tokens .* smaller generators\.context"):
        lines_of(tp=2, context_length=8192, sglang={"max-total-tokens": 4096})


def test_what_only_sglang_can_measure_is_a_warning_and_no_refusal():
    # 32,768 tokens of 160 KiB are 5 GiB. Beside 43.9 GiB of weights, 55 leave 4.0 with a reserve of
    # 7.1 GiB and 9.5 with one of 1.6.
    config = run_of(context_length=32768)
    lines = list(describe_server_memory(config, SPEC, gpu_memory_gb=55.0))
    assert lines[-1].startswith("warning: that may be less than one sequence")
