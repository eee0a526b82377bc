import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from megatron_rl.algorithm.pass_at_k import Votes
from megatron_rl.errors import GeneratorRequestError, GeneratorTimeoutError, VerifierError
from megatron_rl.evaluate import EvaluationSettings, ProblemScore, evaluate
from megatron_rl.evaluate.votes import count_votes
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
            finish_reason="length" if length == 3 else "stop",
        )


async def judge(problem: Problem, response: Response) -> Verdict:
    text = response.answer
    if text == "9":
        raise VerifierError("crashed")
    return Verdict(format_ok=text != "0", correct=text == problem.answer, answer=text)


def run(
    script: Mapping[int, Sequence[int]], *, num_samples: int, concurrency: int = 8, **kwargs: Any
) -> Any:
    generator = Generator(script)
    result = asyncio.run(
        evaluate(
            PROBLEMS,
            [(0,), (1,)],
            settings_of(generator, num_samples=num_samples, slots=asyncio.Semaphore(concurrency)),
            clock=iter([10.0, 12.5]).__next__,
            **kwargs,
        )
    )
    return result, generator


def settings_of(
    generator: Generator, *, num_samples: int, slots: asyncio.Semaphore
) -> EvaluationSettings:
    return EvaluationSettings(
        lease=generator.lease,
        sampling=Sampling(params={}),
        judge=judge,
        read=lambda _, token_ids: ("", answering(str(token_ids[0]))),
        num_samples=num_samples,
        slots=slots,
        unjudged=asyncio.Semaphore(8),
        request_prefix="test",
    )


def test_scores_are_means_over_problems():
    result, _ = run({0: [2, 2, 3, 3], 1: [3, 3, 0, 2]}, num_samples=4)
    assert result.record() == {
        "problems": 2,
        "samples": 8,
        "errors": 0,
        "kept": 0,
        "k": 4,
        "pass@1": pytest.approx((2 / 4 + 1 / 4) / 2),
        # Two values that differ by d have a standard error of d / 2.
        "pass@1_stderr": pytest.approx(1 / 8),
        "pass@2": pytest.approx((5 / 6 + 3 / 6) / 2),  # 1 - C(2,2)/C(4,2), 1 - C(3,2)/C(4,2)
        "pass@2_stderr": pytest.approx(1 / 6),
        "pass@4": 1.0,
        "pass@4_stderr": 0.0,
        "pass@k": 1.0,
        "pass@k_stderr": 0.0,
        # Of 2, 2, 3, 3: one pair of 6 is right, one is wrong, four tie: (1 + 4/2) / 6. Of 3, 3, 0,
        # 2: three of 6 have the right one beside a wrong one, all ties: 3/2 / 6.
        "maj@2": pytest.approx((1 / 2 + 1 / 4) / 2),
        "maj@2_stderr": pytest.approx(1 / 8),
        "maj@4": pytest.approx((0.5 + 0.0) / 2),  # a tie of right and wrong; wrong wins
        "maj@4_stderr": pytest.approx(1 / 4),
        "maj@k": pytest.approx((0.5 + 0.0) / 2),
        "maj@k_stderr": pytest.approx(1 / 4),
        "format": 7 / 8,
        "length_mean": 14 / 8,  # three right ones of 3 tokens, five of 1
        "truncated": 3 / 8,  # those of 3 tokens
        "version_mean": 12 / 14,  # the right ones' tokens are of versions 0, 1 and 3, the rest 0
        "version_oldest": 0,
        "version_newest": 3,
        "seconds": 2.5,
    }


def test_scores_are_given_for_each_language_that_problems_name():
    script = {0: [2, 2], 1: [3, 2]}
    result, _ = run(script, num_samples=2, split_by="language", labels=["fr", "zh"])
    record = result.record()
    assert (record["language/fr/pass@1"], record["language/zh/pass@1"]) == (1.0, 0.5)
    assert (record["language/fr/maj@2"], record["language/zh/maj@k"]) == (1.0, 0.5)
    assert record["language/fr/problems"] == 1
    assert "language/fr/pass@1_stderr" not in record  # one problem has no spread
    some, _ = run({0: [2, 2], 1: [3, 2]}, num_samples=2, split_by="language", labels=[None, "zh"])
    assert not any(name.startswith("language/fr") for name in some.record())


def test_what_is_known_is_not_sampled_again():
    kept: dict[int, ProblemScore] = {}
    first, _ = run({0: [2, 3], 1: [2, 2]}, num_samples=2, keep=kept.__setitem__)
    second, generator = run({0: [], 1: [2, 2]}, num_samples=2, known={0: kept[0]})
    assert generator.most_in_flight == 2
    same = first.record() | {"kept": 2}
    assert second.record() == same


def test_evaluations_share_what_may_be_in_flight():
    async def both() -> int:
        generator, slots = Generator({0: [2] * 8, 1: [3] * 8}), asyncio.Semaphore(3)
        settings = settings_of(generator, num_samples=4, slots=slots)
        prompts = [(0,), (1,)]
        await asyncio.gather(*(evaluate(PROBLEMS, prompts, settings) for _ in range(2)))
        return generator.most_in_flight

    assert asyncio.run(both()) == 3


def votes_on(answers: Sequence[str | None], right: str, judge: Any) -> Votes:
    verdicts = [Verdict(format_ok=True, correct=a == right, answer=a) for a in answers]
    return asyncio.run(count_votes(PROBLEMS[0], verdicts, judge))


async def compares(problem: Problem, response: Response) -> Verdict:
    """Take answers for the same that are, as numbers in a box; hang up on a 7."""
    text = response.answer.removeprefix("\\boxed{").removesuffix("}")
    if "7" in text + problem.answer:
        raise VerifierError("hung")
    return Verdict(format_ok=True, correct=float(text) == float(problem.answer), answer=text)


def test_wrong_answers_that_the_verifier_takes_for_the_same_vote_together():
    answers = ["3", "3.0", "5", "2", "2", None, "03"]
    # By text the right 2 would win with two votes against one each.
    assert votes_on(answers, "2", compares) == Votes(right=2, wrong=(3, 1), silent=1)


def test_answers_that_the_verifier_cannot_compare_are_different():
    assert votes_on(["7", "07", "2"], "2", compares) == Votes(right=1, wrong=(1, 1), silent=0)


def test_nothing_is_compared_where_no_answer_is_right():
    assert votes_on(["3", "3.0", None], "2", None) == Votes(right=0, wrong=(1, 1), silent=1)


def test_a_verifier_error_is_neither_right_nor_wrong():
    result, _ = run({0: [2, 9], 1: [9, 9]}, num_samples=2)
    record = result.record()
    assert (record["problems"], record["samples"], record["errors"]) == (1, 1, 3)
    assert (record["pass@1"], record["pass@k"], record["maj@k"]) == (1.0, 1.0, 1.0)


def test_a_completion_that_takes_too_long_is_lost_and_counted():
    result, _ = run({0: [2, LATE], 1: [3, 3]}, num_samples=2)
    record = result.record()
    assert (record["problems"], record["samples"], record["errors"]) == (2, 3, 1)
    assert record["pass@1"] == 0.5


def test_no_verdict_at_all_is_an_error():
    with pytest.raises(VerifierError, match="no verdict at all"):
        run({0: [9], 1: [9]}, num_samples=1)


def test_no_more_than_concurrency_completions_are_in_flight():
    _, generator = run({0: [2] * 9, 1: [3] * 9}, num_samples=9, concurrency=4)
    assert generator.most_in_flight == 4


def test_a_refused_request_ends_the_evaluation():
    with pytest.raises(GeneratorRequestError):
        run({0: [2, -1], 1: [3, 3]}, num_samples=2)
