"""The scaling run of long contexts: its arithmetic, its table, and one real step of it."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_rl.conversion.families import read_model_spec
from megatron_rl.model_spec import SlidingWindow
from megatron_rl.parallelism.flops import training_flops

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "long_context"
LLAMA = ROOT / "tests" / "released" / "Llama-3.1-8B"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXAMPLE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def _beside_the_example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        yield


@pytest.fixture(scope="module")
def scaling():
    return load("context_scaling")


def test_a_batch_has_the_longest_sequence_and_a_long_tail(scaling):
    lengths = scaling.made_up_lengths(4096, tokens=200_000, seed=0)
    assert max(lengths) == 4096 and sum(lengths) >= 200_000 > sum(lengths[:-1])
    assert 4096 / 16 < np.median(lengths) < 4096 / 4
    assert lengths == scaling.made_up_lengths(4096, tokens=200_000, seed=0)


@pytest.mark.parametrize("cp_size", [2, 4, 8])
def test_zigzag_shares_flops_evenly_over_context_parallel_ranks(scaling, cp_size):
    model = read_model_spec(LLAMA)
    assert scaling.context_imbalance([64, 4096], model, cp_size=1) == 1
    found = scaling.context_imbalance([64, 4096, 32768], model, cp_size=cp_size)
    assert found == pytest.approx(1.0, abs=1e-9)


def test_the_flops_of_ranks_are_those_of_the_whole_batch(scaling):
    # Two ranks of a sequence of 4: positions 0 and 3, 1 and 2. A window of 2 keys makes positions
    # 1, 2 and 3 alike, so the first rank misses what position 0 does not see.
    model = read_model_spec(LLAMA)
    slides = replace(model, window=SlidingWindow(size=2, layers=(True,) * model.num_layers))
    first, second, third = np.diff(training_flops([0, 1, 2, 3], slides))
    assert third == second > first
    work = [first + second, 2 * second]
    expected = max(work) / (sum(work) / 2)
    assert scaling.context_imbalance([4], slides, cp_size=2) == pytest.approx(expected)


def test_padding_and_room_of_rows_by_hand(scaling):
    model = read_model_spec(LLAMA)
    found = scaling.balance_of([9, 6], model, token_budget=16, dp_size=1, cp_size=2)
    # Multiples of 4: 12 and 8 tokens for 9 and 6, in two rows of 16.
    assert found.padding == pytest.approx(5 / 20)
    assert found.room == pytest.approx(12 / 32)
    assert found.over_dp == 1
    two = scaling.balance_of([9, 6], model, token_budget=16, dp_size=2, cp_size=1)
    longer, shorter = training_flops([9, 6], model)
    assert two.over_dp == pytest.approx(2 * longer / (longer + shorter))


def test_a_model_is_scaled_only_beyond_its_positions(scaling):
    assert scaling.rope_scaling_for(512, positions=512, kind="yarn") is None
    found = scaling.rope_scaling_for(2048, positions=512, kind="llama3")
    assert found == {"type": "llama3", "factor": 4.0, "original_max_position_embeddings": 512}


def run_tool(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLE / f"{name}.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.lengthy
def test_a_context_beyond_the_models_positions_is_measured_and_shown(tmp_path):
    out = ("--out", tmp_path, "--rows", 1, "--steps", 1)
    run_tool("measure", "--length", 600, *out)
    run_tool(
        *("measure", "--length", 131072, "--out", tmp_path, "--estimate", "--ranks", 8),
        *("--model", LLAMA, "--precision", "bf16", "--tp", 4, "--cp", 2, "--recompute"),
    )
    table = run_tool("summarize", tmp_path)
    measured, estimated = json.loads((tmp_path / "table.json").read_text())
    assert (measured["layout"], estimated["layout"]) == ("dp1 cp1 tp1 pp1", "dp1 cp2 tp4 pp1")
    assert measured["rope factor"] == pytest.approx(600 / 512)
    assert measured["tokens/s"] > 0 and measured["measured MiB"] > 0
    assert "tokens/s" not in estimated and estimated["over_cp"] == pytest.approx(1)
    # 16 bits of 8 key-value heads of 128 in 32 layers are 128 KiB a token, of 80 GiB less weights.
    assert 2 <= estimated["server sequences"] <= 5
    assert table == (tmp_path / "table.md").read_text()
    assert [line.count("|") for line in table.splitlines()] == [14] * 4
    picture = (tmp_path / "scaling.svg").read_text()
    assert picture.startswith("<svg") and "dp1 cp2 tp4 pp1" in picture
