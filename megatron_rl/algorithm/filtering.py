"""Zero-advantage filter: groups that teach nothing are left out of batches."""

from collections.abc import Sequence
from typing import Literal


def is_zero_advantage(
    rewards: Sequence[float],
    correct: Sequence[bool],
    *,
    rule: Literal["reward", "correctness", "never"],
) -> bool:
    """Return whether a group is dropped because all its completions did equally well.

    Args:
        rewards: full reward of each completion of the group.
        correct: whether each completion was judged correct.
        rule: "reward" compares full rewards (arXiv:2506.10910, the formula), "correctness" only the
            verdicts (its prose), "never" drops nothing.
    """
    if rule == "reward":
        # Exact comparison: the same parts add up to the same float.
        return len(set(rewards)) == 1
    if rule == "correctness":
        return len(set(correct)) == 1
    return False
