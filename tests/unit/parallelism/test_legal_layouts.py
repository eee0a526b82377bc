"""Illegal layouts are refused in one sentence that names what does not fit and what would."""

import dataclasses

import pytest
from released import DENSE, EXPERTS

from megatron_rl.errors import ConfigError
from megatron_rl.parallelism.layouts import Layout, check_layout, check_world_size

MODEL = dataclasses.replace(DENSE, num_layers=32, num_heads=16, num_groups=8, ffn_size=3072)
MIXTURE = dataclasses.replace(
    MODEL,
    ffn_size=768,
    moe=dataclasses.replace(EXPERTS, num_experts=8, ffn_size=768, layers=(True,) * 32),
)


def layout(**changes):
    alone = {"tp": 1, "sp": False, "pp": 1, "vpp": 1, "cp": 1, "ep": 1, "etp": 1}
    return Layout(**(alone | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tp": 8},
        {"tp": 2, "sp": True},
        {"pp": 4},
        {"pp": 2, "vpp": 4},
        {"cp": 4},
        {"tp": 2, "etp": 2},
        {"tp": 2, "sp": True, "pp": 2, "cp": 2},
    ],
)
def test_even_cuts_are_accepted(changes):
    check_layout(layout(**changes), MODEL)


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        # 3 divides 3072, so only heads are to blame; 2 and 4 are the nearest that divide all.
        (
            {"tp": 3},
            MODEL,
            "learner.parallel.tp (3) does not divide the model's attention heads (16) and "
            "key/value heads (8); nearest legal: tp=2, tp=4",
        ),
        (
            {"tp": 16},
            MODEL,
            "learner.parallel.tp (16) does not divide the model's key/value heads (8); nearest "
            "legal: tp=4, tp=8",
        ),
        ({"sp": True}, MODEL, "learner.parallel.sp needs learner.parallel.tp >= 2; set sp = false"),
        ({"pp": 3}, MODEL, "pp=3 does not divide 32 layers; nearest legal: pp=2, pp=4"),
        (
            {"pp": 4, "vpp": 3},
            MODEL,
            "pp * vpp=12 does not divide 32 layers; nearest legal: pp * vpp=8, pp * vpp=16",
        ),
        ({"vpp": 2}, MODEL, "learner.parallel.vpp > 1 needs learner.parallel.pp >= 2; set vpp = 1"),
        (
            {"ep": 2},
            MODEL,
            "learner.parallel.ep (2) is for mixtures of experts, which this model is not; set "
            "ep = 1",
        ),
        (
            {"tp": 2, "etp": 4},
            MODEL,
            "learner.parallel.etp (4) is for mixtures of experts, which this model is not; remove "
            "it",
        ),
        (
            {"ep": 3},
            MIXTURE,
            "learner.parallel.ep (3) does not divide the model's experts (8); nearest legal: "
            "ep=2, ep=4",
        ),
        (
            {"etp": 5},
            MIXTURE,
            "learner.parallel.etp (5) does not divide the model's experts' ffn size (768); nearest "
            "legal: etp=4, etp=6",
        ),
        (
            {"tp": 2, "etp": 2},
            MIXTURE,
            "a mixture of experts with learner.parallel.tp > 1 needs learner.parallel.sp = true",
        ),
        (
            {"tp": 2, "sp": True, "etp": 2},
            dataclasses.replace(MIXTURE, has_linear_biases=True),
            "learner.parallel.etp (2, by default that of tp) must be 1 for experts with biases: "
            "Megatron adds a bias on every rank that shares an expert; set etp = 1",
        ),
    ],
)
def test_the_refusal_names_the_rule_and_the_nearest_legal_values(changes, model, message):
    with pytest.raises(ConfigError) as caught:
        check_layout(layout(**changes), model)
    assert str(caught.value) == message


def test_every_broken_rule_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        check_layout(layout(tp=3, pp=3, sp=True), MODEL)
    assert len(str(caught.value).splitlines()) == 2


def test_ranks_make_whole_copies_of_the_model():
    check_world_size(layout(tp=2, pp=2, cp=2), world_size=16)
    with pytest.raises(ConfigError, match=r"12 learner ranks .* 2 \* 2 \* 2 = 8; start 8 or 16"):
        check_world_size(layout(tp=2, pp=2, cp=2), world_size=12)


def test_experts_share_the_ranks_of_a_stage():
    check_world_size(layout(pp=2, ep=4), world_size=8)
    with pytest.raises(ConfigError, match=r"must divide the 2 ranks of a pipeline stage"):
        check_world_size(layout(pp=2, ep=4), world_size=4)
