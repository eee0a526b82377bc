"""Layouts that fit, best first; and those the documentation recommends."""

import contextlib
import dataclasses
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest
from released import released_model

from megatron_rl.model_spec import SlidingWindow
from megatron_rl.parallelism.choose import fitting_layouts, legal_layouts
from megatron_rl.parallelism.layouts import check_layout, check_world_size

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "parallelism.md"
# A command and the table that it printed.
EXAMPLES = re.findall(
    r"```\n(python tools/choose_layout\.py [^\n]+)\n```\n\n((?:\|[^\n]+\n)+)",
    DOCUMENT.read_text(),
)


def fitting(name, **changes):
    usual = {
        "num_gpus": 8,
        "gpus_per_node": 8,
        "gpu_bytes": 72 * 2**30,
        "token_budget": 8192,
        "chunk_tokens": 256,
        "precision": "bf16",
        "has_reference": False,
    }
    return fitting_layouts(released_model(name), **(usual | changes))


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen3-30B-A3B"])
def test_every_layout_is_legal_fits_and_is_no_better_than_the_one_before(name):
    candidates = fitting(name, num_gpus=16)
    assert candidates
    for candidate in candidates:
        check_layout(candidate.layout, released_model(name))
        check_world_size(candidate.layout, world_size=16)
        assert candidate.memory.total <= 72 * 2**30
        assert candidate.layout.tp <= 8
    assert [c.rank for c in candidates] == sorted(c.rank for c in candidates)


def test_the_smallest_tensor_parallelism_without_recomputation_is_best():
    best = fitting("Llama-3.1-8B")[0]
    # Weights, gradients and optimiser alone: 8.03e9 x (2 + 4 + 12 / 8) = 56 GiB; with the 35 GiB
    # of 8192 tokens too much for one GPU.
    assert (best.layout.tp, best.layout.model_size, best.is_recomputed) == (2, 2, False)


def test_a_larger_gpu_needs_no_cut():
    best = fitting("Llama-3.1-8B", gpu_bytes=130 * 2**30)[0]
    assert (best.layout.model_size, best.is_recomputed) == (1, False)


def test_what_fits_nowhere_is_an_empty_list():
    assert fitting("Llama-3.3-70B", num_gpus=8) == []


def test_only_a_mixture_spreads_experts():
    dense = legal_layouts(released_model("Llama-3.1-8B"), num_gpus=8, gpus_per_node=8)
    assert {layout.ep for layout in dense} == {1}
    mixture = legal_layouts(released_model("Qwen3-30B-A3B"), num_gpus=8, gpus_per_node=8)
    assert {layout.ep for layout in mixture} == {1, 2, 4, 8}


def test_a_sliding_window_is_not_spread_over_ranks():
    model = released_model("Llama-3.1-8B")
    slides = dataclasses.replace(
        model,
        window=SlidingWindow(size=4096, layers=(True,) + (False,) * (model.num_layers - 1)),
    )
    assert {layout.cp for layout in legal_layouts(slides, num_gpus=8, gpus_per_node=8)} == {1}
    sunk = dataclasses.replace(slides, has_sinks=True)
    assert {layout.cp for layout in legal_layouts(sunk, num_gpus=8, gpus_per_node=8)} == {
        1,
        2,
        4,
        8,
    }


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("layout_tool", ROOT / "tools/choose_layout.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("command", "table"), EXAMPLES, ids=[c.split()[2] for c, _ in EXAMPLES])
def test_the_documented_layouts_are_what_the_tool_says(command, table, tool, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert tool.main(shlex.split(command)[2:]) == 0
    assert printed.getvalue() == table


def test_every_size_and_length_is_documented():
    models = [Path(command.split()[2]).name for command, _ in EXAMPLES]
    assert models == ["Llama-3.1-8B", "Mistral-Small-24B", "Llama-3.3-70B", "Qwen3-30B-A3B"]
    for _, table in EXAMPLES:
        lengths = {row.split("|")[1].strip() for row in table.splitlines()[2:]}
        assert lengths == {"8192", "32768", "131072"}


def test_a_refusal_says_what_would_help(tool, capsys):
    arguments = [str(ROOT / "tests/released/Llama-3.3-70B"), "--gpus", "8", "--tokens", "8192"]
    assert tool.main(arguments) == 2
    assert "use more GPUs or fewer tokens" in capsys.readouterr().err
