import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from megatron_rl.errors import GeneratorRequestError, GeneratorTimeoutError, VerifierError
from megatron_rl.evaluate import EvaluationResult, EvaluationSettings, evaluate
from megatron_rl.types import Completion, Problem, Response, Sampling, Verdict
from tests.unit.records import answering

LATE = -2
PROBLEMS = [Problem(id=name, text=name, answer="2") for name in ("one", "two")]


class Generator:
    """Answers each prompt's samples from a script; the text of a completion is its first token."""

    def __init__(self, script: Mapping[int, Sequence[int]]) -> None:
        self._script = {prompt: list(tokens) for prompt, tokens in script.items()}
        self.in_flight = self.most_in_flight = 0

    async def lease(self) -> "Generator":
        return self

    async def __call__(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, request_id: str
    ) -> Completion:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        token = self._script[prompt_ids[0]].pop(0)
        if token == LATE:
            raise GeneratorTimeoutError("not within 1 s")
        if token < 0:
            raise GeneratorRequestError("refused")
        length = 3 if token == 2 else 1
        return Completion(
            token_ids=(token,) * length,
            logprobs=(-1.0,) * length,
            policy_versions=(0, 1, 3)[:length],
            finish_reason="stop",
        )


async def judge(problem: Problem, response: Response) -> Verdict:
    text = response.answer
    if text == "9":
        raise VerifierError("crashed")
    return Verdict(format_ok=text != "0", correct=text == problem.answer, answer=text)


def run(script: Mapping[int, Sequence[int]], *, num_samples: int, concurrency: int = 8) -> Any:
    generator = Generator(script)
    result = asyncio.run(
        evaluate(
            PROBLEMS,
            [(0,), (1,)],
            EvaluationSettings(
                lease=generator.lease,
                sampling=Sampling(params={}),
                judge=judge,
                read=lambda _, token_ids: ("", answering(str(token_ids[0]))),
                num_samples=num_samples,
                concurrency=concurrency,
                request_prefix="test",
            ),
            clock=iter([10.0, 12.5]).__next__,
        )
    )
    return result, generator


def test_scores_are_means_over_problems():
    result, _ = run({0: [2, 2, 3, 3], 1: [3, 3, 0, 2]}, num_samples=4)
    assert result == EvaluationResult(
        num_problems=2,
        num_samples=8,
        num_errors=0,
        k=4,
        pass_at_1=pytest.approx((2 / 4 + 1 / 4) / 2),
        pass_at_k=1.0,
        majority_at_k=pytest.approx((0.5 + 0.0) / 2),  # a tie of right and wrong; wrong wins
        format=7 / 8,
        length_mean=14 / 8,  # three right ones of 3 tokens, five of 1
        version_mean=12 / 14,  # the right ones' tokens are of versions 0, 1 and 3, the others' of 0
        version_oldest=0,
        version_newest=3,
        seconds=2.5,
    )


def test_a_verifier_error_is_neither_right_nor_wrong():
    result, _ = run({0: [2, 9], 1: [9, 9]}, num_samples=2)
    assert (result.num_problems, result.num_samples, result.num_errors) == (1, 1, 3)
    assert (result.pass_at_1, result.pass_at_k, result.majority_at_k) == (1.0, 1.0, 1.0)


def test_a_completion_that_takes_too_long_is_lost_and_counted():
    result, _ = run({0: [2, LATE], 1: [3, 3]}, num_samples=2)
    assert (result.num_problems, result.num_samples, result.num_errors) == (2, 3, 1)
    assert result.pass_at_1 == 0.5


def test_no_verdict_at_all_is_an_error():
    with pytest.raises(VerifierError, match="no verdict at all"):
        run({0: [9], 1: [9]}, num_samples=1)


def test_no_more_than_concurrency_completions_are_in_flight():
    _, generator = run({0: [2] * 9, 1: [3] * 9}, num_samples=9, concurrency=4)
    assert generator.most_in_flight == 4


def test_a_refused_request_ends_the_evaluation():
    with pytest.raises(GeneratorRequestError):
        run({0: [2, -1], 1: [3, 3]}, num_samples=2)


def test_the_record_has_the_names_of_the_evaluation_file():
    result, _ = run({0: [2], 1: [3]}, num_samples=1)
    record = result.record()
    assert record["pass@1"] == 0.5
    assert {"problems", "samples", "k", "pass@k", "maj@k", "format", "length_mean"} < set(record)
