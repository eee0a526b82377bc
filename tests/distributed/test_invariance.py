"""However a batch is cut over rows and ranks, the learner takes the same steps: the recipe's."""

import functools
import math

import pytest
import torch
from invariance_layouts import LAYOUTS, REFERENCE, VARIANTS, setup_of
from invariance_ranks import NUM_BATCHES, TOKEN_BUDGET
from invariance_reference import train_in_plain_torch
from objective_ranks import OBJECTIVE
from ranks import free_port, run_on_ranks
from tiny_policy import CONFIG, CONFIGS, SETTINGS, make_batches

from megatron_rl.conversion.families import model_spec
from megatron_rl.learner.rows import plan_rows, row_rules
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.parallelism.memory import estimate_memory

pytestmark = pytest.mark.distributed

CLIPPING_OFF = {"packed, clipping off": ("packed", {"clip_grad": 0.0})}
# Sums over tokens: equal up to float32's rounding.
UNLIKE = ("learner/", "time/", "packing/", "tokens_per_s", "skipped_steps")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Metrics, gradients and weights by (kind, name), all from one launch."""
    folder = tmp_path_factory.mktemp("outcomes")
    jobs = {}
    for kind, names in LAYOUTS.items():
        layouts = {name: (name, {}) for name in (REFERENCE, *names)} | dict(VARIANTS[kind])
        layouts |= CLIPPING_OFF if kind == "dense" else {}
        for name, (layout, further) in layouts.items():
            setup = setup_of(layout)
            jobs[f"{kind}, {name}"] = {
                "kind": kind,
                "num_ranks": setup.num_ranks,
                "port": free_port(),
                "settings": dict(setup.settings) | further,
            }
    argument = {"jobs": jobs, "folder": str(folder)}
    run_on_ranks("invariance_ranks:train", argument, num_ranks=4)
    return {name: torch.load(folder / f"{name}.pt") for name in jobs}


@functools.cache
def reference(kind, **settings):
    return train_in_plain_torch(kind=kind, **settings)


def names_of(kind):
    return [*LAYOUTS[kind], *VARIANTS[kind]]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in ("dense", "mixture", "latents", "sinks")
        for name in (REFERENCE, *names_of(kind))
    ],
)
def test_every_layout_takes_the_steps_of_the_float64_reference(kind, name, trained):
    expected = reference(
        kind,
        tied="tied" in name,
        num_minibatches=2 if "two minibatches" in name else 1,
        is_truncated="truncated" in name,
    )
    assert_alike(trained[f"{kind}, {name}"], expected, metrics=2e-5)


@pytest.mark.parametrize("name", names_of("sequence ratios"))
def test_sequence_ratios_corrections_kl_and_entropy_are_those_of_one_process(name, trained):
    # Ratios of sequences exponentiate sums over tokens, so rounding weighs more.
    expected = trained[f"sequence ratios, {REFERENCE}"]
    assert_alike(trained[f"sequence ratios, {name}"], expected, metrics=1e-4)


@pytest.mark.parametrize("name", names_of("two rotations"))
def test_layers_of_two_rotations_with_sandwich_norms_train_as_on_one_process(name, trained):
    # tests/unit/learner/model shows that one process computes what transformers does.
    expected = trained[f"two rotations, {REFERENCE}"]
    assert_alike(trained[f"two rotations, {name}"], expected, metrics=2e-5)


def assert_alike(actual, expected, *, metrics):
    for got, wanted in zip(actual["metrics"], expected["metrics"], strict=True):
        for key, value in wanted.items():
            if not any(part in key for part in UNLIKE):
                assert got[key] == pytest.approx(value, rel=metrics, abs=metrics / 10), key
    for loss, gradients in expected["gradients"].items():
        assert largest_difference(actual["gradients"][loss], gradients) < 1e-5, loss
    assert largest_difference(actual["weights"], expected["weights"]) < 1e-5


def largest_difference(actual, expected):
    assert list(actual) == list(expected)
    return max(
        float((actual[name] - tensor).norm() / tensor.norm().clamp(min=1e-30))
        for name, tensor in expected.items()
    )


def test_the_batches_exercise_clipping_of_ratios_and_gradients(trained):
    metrics = trained["dense, packed"]["metrics"][:NUM_BATCHES]
    assert all(0.05 < record["policy/clip_fraction"] < 0.95 for record in metrics)
    assert all(record["policy/grad_norm"] > SETTINGS["optimizer"].clip_grad for record in metrics)
    assert metrics[0]["packing/rows"] < len(make_batches(1)[0].sequences.lengths_N)


def test_the_batches_exercise_every_part_of_an_objective(trained):
    metrics = trained["sequence ratios, packed"]["metrics"]
    for record in metrics:
        assert 0 < record["policy/clip_fraction"] < 1
        assert 0 < record["correction/changed_fraction"] < 1
        assert record["correction/ratio_max"] > OBJECTIVE.correction.high
    assert metrics[-1]["policy/reference_kl"] > 1e-4


def layout_of(settings):
    alone = {"tp": 1, "sp": False, "pp": 1, "vpp": 1, "cp": 1, "ep": 1, "etp": 1}
    sizes = alone | {"etp": settings["tp"] if "tp" in settings else 1}
    return Layout(**(sizes | {key: settings[key] for key in alone if key in settings}))


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in CONFIGS for name in LAYOUTS[kind]]
)
def test_memory_is_planned_for_the_parameters_that_ranks_hold(kind, name, trained):
    setup, shape = setup_of(name), model_spec(CONFIGS[kind])
    memory = estimate_memory(
        shape,
        layout_of(setup.settings),
        world_size=setup.num_ranks,
        precision="fp32",
        token_budget=64,
        chunk_tokens=16,
        is_recomputed=False,
        has_reference=False,
        has_fp32_head=False,
    )
    parameters, moments = zip(*trained[f"{kind}, {name}"]["held"], strict=True)
    # The estimate is of the fullest stage in all, not of the one with most parameters.
    assert memory.weights // 4 in parameters
    assert memory.optimizer / 8 == pytest.approx(max(moments), rel=0.15)


def rows_of_ranks(config, **changes):
    """Return the rows of both data-parallel ranks in each batch."""
    rules = row_rules(
        model_spec(config),
        layout_of(changes),
        token_budget=TOKEN_BUDGET,
        token_multiple=1,
        amax_spans_replicas=False,
    )
    batches = make_batches(NUM_BATCHES + 1)
    return [plan_rows(batch.sequences, rules, dp_size=2) for batch in batches]


@pytest.mark.parametrize("layout", [{}, {"pp": 2}, {"cp": 2}, {"tp": 2, "sp": True}])
def test_replicas_have_different_numbers_of_rows_and_none_an_empty_one(layout):
    batches = rows_of_ranks(CONFIG, **layout)
    assert any(len(first) != len(second) for first, second in batches)
    assert not any(() in rows for ranks in batches for rows in ranks)


@pytest.mark.parametrize(
    ("config", "layout"), [(CONFIG, {"pp": 2, "vpp": 2}), (CONFIGS["mixture"], {"ep": 2, "etp": 1})]
)
def test_rounds_of_rows_and_shared_experts_need_empty_ones(config, layout):
    batches = rows_of_ranks(config, **layout)
    assert any(() in rows for ranks in batches for rows in ranks)
    assert config is CONFIG or all(len(first) == len(second) for first, second in batches)


def test_the_gradient_norm_is_measured_although_clipping_is_off(trained):
    clipped, free = (trained[f"dense, packed{name}"]["metrics"] for name in ("", ", clipping off"))
    # Both take their first step from the same weights; the norm is that before clipping.
    assert free[0]["policy/grad_norm"] == pytest.approx(clipped[0]["policy/grad_norm"])
    assert math.isfinite(free[-1]["sft/grad_norm"])
