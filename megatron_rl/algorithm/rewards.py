"""Reward of one response, from its verdict and its length (arXiv:2506.10910, section 2.2)."""

from typing import Literal

from megatron_rl.types import Reward, Verdict


def compute_reward(
    verdict: Verdict,
    *,
    num_tokens: int,
    is_truncated: bool,
    max_tokens: int,
    length_cache: int,
    format_reward: float,
    correctness_reward: float,
    language_reward: float,
    length_penalty: float,
    is_proportional: bool,
    truncated: Literal["grade", "zero", "mask"],
) -> Reward:
    """Return the parts ``format``, ``correctness``, ``length`` and, if asked for, ``language``.

    All are 0 if the format is broken, or if a truncated completion is to earn nothing.

    Args:
        verdict: what the verifier found.
        num_tokens: length of the completion.
        is_truncated: whether the completion was cut off at its maximum length.
        max_tokens: length from which the whole penalty applies.
        length_cache: tokens before ``max_tokens`` over which the penalty grows linearly, > 0.
        format_reward: earned by a well-formed response.
        correctness_reward: earned by a right answer.
        language_reward: earned by one language throughout; 0 leaves the part out.
        length_penalty: largest deduction, >= 0.
        is_proportional: pay ``correctness_reward`` times the score where a verifier measures one.
        truncated: of a truncated completion, "grade" pays what it earned, "zero" nothing, and
            "mask" what it earned, but keeps it out of the loss (arXiv:2503.14476, section 3.4).
    """
    assert length_cache > 0, f"length_cache must be > 0, got {length_cache}"
    is_asked, is_masked = language_reward > 0, is_truncated and truncated == "mask"
    if not verdict.format_ok or (is_truncated and truncated == "zero"):
        parts = {"format": 0.0, "correctness": 0.0, "length": 0.0}
        parts |= {"language": 0.0} if is_asked else {}
        return Reward(parts=parts, is_masked=is_masked)
    overshoot = (num_tokens - max_tokens + length_cache) / length_cache
    share = float(verdict.correct)
    if is_proportional and verdict.score is not None:
        share = verdict.score
    parts = {
        "format": format_reward,
        "correctness": correctness_reward * share,
        # Subtracting from 0.0 keeps a reward without deduction from showing as -0.0.
        "length": 0.0 - length_penalty * min(max(overshoot, 0.0), 1.0),
    }
    if is_asked:
        parts["language"] = language_reward if verdict.language_ok else 0.0
    return Reward(parts=parts, is_masked=is_masked)
