"""Hand-checked pairs of answers: three corpora by three people."""

import json
from collections import Counter
from pathlib import Path

import pytest

from megatron_rl.math_answers import find_gold_fault, is_equal_answer

CORPORA = Path(__file__).parents[2] / "corpora"
FILES = ["math_pairs.jsonl", "math_pairs_second.jsonl", "math_pairs_third.jsonl"]


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (CORPORA / name).read_text().splitlines()]


@pytest.mark.lengthy
@pytest.mark.parametrize("name", FILES)
def test_at_least_99_percent_of_hand_checked_pairs_are_graded_right(name):
    pairs = read(name)
    wrong = [
        pair for pair in pairs if is_equal_answer(pair["answer"], pair["gold"]) != pair["equal"]
    ]
    shown = "\n".join(map(str, wrong))
    assert len(wrong) <= 0.01 * len(pairs), f"{len(wrong)} of {len(pairs)} pairs:\n{shown}"


@pytest.mark.parametrize("name", FILES)
def test_a_corpus_is_large_and_has_near_misses_in_every_category(name):
    pairs = read(name)
    assert len(pairs) >= 400
    assert len({(pair["gold"], pair["answer"]) for pair in pairs}) == len(pairs)
    refused = Counter(pair["category"] for pair in pairs if not pair["equal"])
    assert {pair["category"] for pair in pairs} == set(refused)
    assert 0.25 < sum(refused.values()) / len(pairs) < 0.7


@pytest.mark.parametrize("name", FILES)
def test_the_gold_of_every_accepted_pair_is_usable_as_ground_truth(name):
    faults = [find_gold_fault(pair["gold"]) for pair in read(name) if pair["equal"]]
    assert not any(faults), [fault for fault in faults if fault]
