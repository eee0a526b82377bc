"""Small records to test with."""

from collections.abc import Sequence

from megatron_rl.types import Completion, Group, Problem, Response, Reward, Sample, Verdict


def make_sample(
    *,
    versions: Sequence[int] = (0, 0),
    reward: float = 0.5,
    correct: bool = True,
    finish_reason: str = "stop",
    is_masked: bool = False,
) -> Sample:
    """Return a sample with one token per version: ids 100, 101..., log-probs -1, -2..."""
    length = len(versions)
    return Sample(
        completion=Completion(
            token_ids=tuple(range(100, 100 + length)),
            logprobs=tuple(-float(i + 1) for i in range(length)),
            policy_versions=tuple(versions),
            finish_reason=finish_reason,
        ),
        text="text",
        verdict=Verdict(format_ok=True, correct=correct, answer="2"),
        reward=Reward(parts={"format": 0.1, "correctness": reward - 0.1}, is_masked=is_masked),
    )


def answering(text: str) -> Response:
    """Return a response that is all answer."""
    return Response(thoughts=None, answer=text, fault=None)


def make_group(index: int, *samples: Sample, prompt_ids: Sequence[int] = (5, 6)) -> Group:
    """Return a group of the samples."""
    return Group(
        index=index,
        problem=Problem(id=f"p{index}", text=f"question {index}", answer="2"),
        prompt_ids=tuple(prompt_ids),
        samples=samples,
    )
