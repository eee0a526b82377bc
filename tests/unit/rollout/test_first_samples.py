"""First samples: what groups have in common, and what keeps a run from learning."""

import asyncio
import dataclasses

import pytest

from megatron_rl.errors import VerifierError
from megatron_rl.rollout.first_samples import SamplingParts, sample_groups, sum_up, warnings_of
from megatron_rl.types import Assignment, Completion, Problem, Reward, Sampling, Verdict
from tests.unit.records import answering, make_group, make_sample

RIGHT = make_sample(versions=[0, 0])
WRONG = make_sample(versions=[0] * 4, correct=False, reward=0.1)


def malformed(sample, *, is_cut_off=False):
    verdict = Verdict(format_ok=False, correct=False, reason="no tag", is_parsable=False)
    completion = sample.completion
    if is_cut_off:
        completion = dataclasses.replace(completion, finish_reason="length")
    reward = Reward(parts={"format": 0.0})
    return dataclasses.replace(sample, verdict=verdict, completion=completion, reward=reward)


def first(*groups, **changes):
    settings = {"num_asked": 2 * len(groups), "drop_rule": "reward"} | changes
    return sum_up(groups, **settings)


def test_shares_are_of_all_completions_with_a_verdict():
    seen = first(
        make_group(0, RIGHT, WRONG),
        make_group(1, malformed(WRONG, is_cut_off=True)),  # the other one has no verdict
    )
    assert (seen.num_groups, seen.num_samples, seen.num_lost) == (2, 3, 1)
    assert seen.well_formed == pytest.approx(2 / 3)
    assert seen.correct == seen.truncated == pytest.approx(1 / 3)
    assert seen.parsable == pytest.approx(2 / 3)
    assert seen.mean_tokens == pytest.approx((2 + 4 + 4) / 3)
    assert seen.num_dropped == 1  # a group of one has nothing to compare with
    assert dict(seen.reasons)["no tag"] == 1


@pytest.mark.parametrize(
    ("groups", "rule", "words"),
    [
        ([make_group(0, RIGHT, WRONG)], "reward", []),
        ([make_group(0, malformed(WRONG), malformed(WRONG))], "reward", ["format", "every group"]),
        ([make_group(0, malformed(WRONG), malformed(WRONG))], "never", ["format"]),
        ([make_group(0, RIGHT, RIGHT)], "reward", ["every group would be dropped"]),
        (
            [make_group(0, RIGHT, WRONG), make_group(1, *[malformed(RIGHT, is_cut_off=True)] * 3)],
            "reward",
            ["60% of the responses are cut off"],
        ),
    ],
)
def test_what_keeps_a_run_from_learning_is_said_with_its_remedy(groups, rule, words):
    found = list(warnings_of(first(*groups, drop_rule=rule)))
    assert len(found) == len(words)
    for warning, word in zip(found, words, strict=True):
        assert word in warning


def test_no_verdict_at_all_is_an_error():
    with pytest.raises(VerifierError, match="none of the first completions has a verdict"):
        first(make_group(0))


def test_groups_are_sampled_and_judged_as_in_training():
    asked = []

    async def generate(prompt_ids, sampling, *, request_id):
        asked.append((prompt_ids, sampling.params, request_id))
        position = int(request_id[-1])
        return Completion(
            token_ids=(position,), logprobs=(-1.0,), policy_versions=(0,), finish_reason="stop"
        )

    async def lease():
        return generate

    async def judge(problem, response):
        if problem.id == "b":
            raise VerifierError("out of time")
        return Verdict(format_ok=True, correct=response.answer == "1")

    parts = SamplingParts(
        lease=lease,
        sampling=Sampling(params={"top_p": 0.9}),
        judge=judge,
        reward=lambda verdict, **_: Reward(parts={"correctness": 1.0 * verdict.correct}),
        read=lambda _, token_ids: (str(token_ids[0]), answering(str(token_ids[0]))),
    )
    assignments = [
        Assignment(problem=Problem(id=name, text="?", answer="1"), prompt_ids=(5, 6), group_size=2)
        for name in "ab"
    ]
    groups = asyncio.run(sample_groups(assignments, parts, request_prefix="look"))
    assert [group.problem.id for group in groups] == ["a", "b"]
    assert [sample.reward.total for sample in groups[0].samples] == [0.0, 1.0]
    assert groups[1].samples == ()  # no verdict, and no wrong answer either
    assert sorted(request_id for *_, request_id in asked) == [
        f"look-{group}-{position}" for group in range(2) for position in range(2)
    ]
    assert {tuple(prompt) for prompt, *_ in asked} == {(5, 6)}
    assert all(params == {"top_p": 0.9} for _, params, _ in asked)
