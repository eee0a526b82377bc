"""The campaign in miniature: problems of three lengths, a teacher that is right, files that fit."""

import importlib
import json
import random
import re
import sys
from pathlib import Path

import pytest

from megatron_rl.config import load_config, planned_stages

pytestmark = pytest.mark.lengthy

EXAMPLE = Path(__file__).parents[3] / "examples" / "magistral_tiny"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Return the example's two modules, and a folder that one of them has written."""
    others = {name: sys.modules.pop(name, None) for name in ("make_data", "sums")}
    sys.path.insert(0, str(EXAMPLE))
    made = {name: importlib.import_module(name) for name in others}
    out = tmp_path_factory.mktemp("data")
    assert made["make_data"].main([str(out), "--seed", "3"]) == 0
    yield made["sums"], out
    sys.path.remove(str(EXAMPLE))
    for name, module in others.items():
        del sys.modules[name]
        if module is not None:
            sys.modules[name] = module


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def operands(problem):
    return tuple(map(int, re.findall(r"\d+", problem["problem"])))


@pytest.mark.parametrize("digits", [2, 3, 4])
def test_problems_are_right_of_their_length_and_not_held_out(example, digits):
    _, out = example
    train, held_out = read(out / f"train_{digits}.jsonl"), read(out / f"held_out_{digits}.jsonl")
    for problem in train + held_out:
        x, y = operands(problem)
        assert int(problem["answer"]) == x + y
        assert len(str(x)) == len(str(y)) == digits
    assert not {operands(p) for p in train} & {operands(p) for p in held_out}


def test_the_careful_habit_is_right_and_longer_the_more_digits_there_are(example):
    sums, out = example
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "medium")
    rng = random.Random(1)
    longest = {}
    for digits in sums.DIGITS:
        drawn = [sums.draw_sum(rng, digits, avoid=frozenset()) for _ in range(50)]
        for problem in drawn:
            response = sums.careful_response(problem)
            assert f"\\boxed{{{problem.answer}}}" in response
            assert tokenizer.decode(tokenizer(response).input_ids) == response
        lengths = [len(tokenizer(sums.careful_response(p)).input_ids) for p in drawn]
        longest[digits] = max(lengths)
    assert longest[2] + 8 < longest[3] and longest[3] + 8 < longest[4]
    stages = planned_stages(load_config(EXAMPLE / "medium.toml"))
    for stage, digits in zip(stages, sums.DIGITS, strict=True):
        # Room for what is careful, end of turn included, and for less in the stage before.
        assert stage.generators.sampling.max_new_tokens > longest[digits]


def test_stages_are_those_of_the_paper_problems_harden_lengths_grow_batches_shrink():
    stages = planned_stages(load_config(EXAMPLE / "medium.toml"))
    lengths = [stage.generators.sampling.max_new_tokens for stage in stages]
    batches = [stage.rollout.n_batch for stage in stages]
    assert lengths == sorted(set(lengths))
    assert batches == sorted(set(batches), reverse=True)
    assert len({stage.data.train for stage in stages}) == 3
