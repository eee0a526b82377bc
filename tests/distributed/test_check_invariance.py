"""The invariance tool: reads layouts, measures differences, and runs one layout."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.distributed

TOOL = Path(__file__).parents[2] / "tools" / "check_invariance.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "num_ranks", "settings"),
    [
        ("dp2", 2, {}),
        ("dp2xpp2xvp2", 4, {"pp": 2, "vpp": 2}),
        ("cp2xtp2+sp", 4, {"cp": 2, "tp": 2, "sp": True}),
        ("packed", 1, {}),
        ("ep2", 2, {"ep": 2}),  # the experts of two ranks, which see different rows
        ("ep2xpp2", 4, {"ep": 2, "pp": 2}),  # two ranks for each stage
        ("tp2+sp+ep2xetp1", 2, {"tp": 2, "sp": True, "ep": 2, "etp": 1}),
        ("tp2+sp+ep2", 4, {"tp": 2, "sp": True, "ep": 2}),  # each expert cut in two
    ],
)
def test_a_layout_is_read_from_its_name(name, num_ranks, settings, tool):
    assert tool.setup_of(name) == tool.Setup(num_ranks=num_ranks, settings=settings)


@pytest.mark.parametrize("name", ["tp3", "tq2", "pp2xvp3", "sp", "ep2"])
def test_what_is_no_layout_of_the_policy_is_refused(name, tool, capsys):
    assert tool.main(["--layouts", name]) == 2
    assert f"layout {name}: " in capsys.readouterr().err


def test_differences_are_relative_and_the_largest(tool):
    reference = tool.Outcome(
        metrics=[{"policy/loss": 0.5, "policy/small": 0.0, "time/update_s": 1.0}],
        gradients={},
        weights={"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0])},
    )
    other = tool.Outcome(
        metrics=[{"policy/loss": 0.625, "policy/small": 0.03125, "time/update_s": 9.0}],
        gradients={},
        weights={"a": torch.tensor([3.0, 5.0]), "b": torch.tensor([1.0])},
    )
    assert tool.tensor_difference(other.weights, reference.weights) == pytest.approx(
        0.2
    )  # 1 / |(3, 4)|
    # 0.125 / 0.5 of the loss, a little more of a small metric's tenth; times are not compared.
    assert tool.metric_difference(other, reference) == (0.3125, "policy/small")


def test_nan_is_a_difference(tool):
    reference = tool.Outcome(
        metrics=[{"policy/loss": 1.0}], gradients={}, weights={"a": torch.ones(1)}
    )
    broken = tool.Outcome(
        metrics=[{"policy/loss": math.nan}], gradients={}, weights={"a": torch.tensor([math.nan])}
    )
    assert tool.tensor_difference(broken.weights, reference.weights) == math.inf
    assert tool.metric_difference(broken, reference) == (math.inf, "policy/loss")


def test_a_gradient_of_nothing_is_compared_too(tool):
    nothing, something = {"a": torch.zeros(2)}, {"a": torch.ones(2)}
    assert tool.tensor_difference(nothing, nothing) == 0
    assert tool.tensor_difference(something, nothing) > 1


def test_a_layout_that_takes_the_same_steps_passes(tool, capsys):
    assert tool.main(["--layouts", "tp2+sp"]) == 0
    layout, float64 = capsys.readouterr().out.splitlines()[2:]
    assert layout.split()[0] == "tp2+sp" and layout.split()[-1] == "ok"
    assert float64.startswith("alone, float64") and float64.split()[-1] == "ok"


def test_a_kind_of_model_is_chosen_by_its_name(tool, capsys):
    assert tool.main(["--layouts", "ep2", "--kind", "mixture"]) == 0
    assert "ep2" in capsys.readouterr().out


def test_every_variant_has_a_reference_of_its_own_model_and_steps(tool):
    for kind, variants in tool.VARIANTS.items():
        for name in variants:
            wanted = tool.reference_of(name)
            assert wanted == tool.REFERENCE or wanted in tool.VARIANTS[kind]
