"""Zero-advantage filter: groups that teach nothing are left out of batches."""

from collections.abc import Sequence
from typing import Literal


def is_zero_advantage(
    rewards: Sequence[float],
    correct: Sequence[bool],
    masked: Sequence[bool],
    *,
    rule: Literal["reward", "correctness", "never"],
) -> bool:
    """Return whether a group is dropped because its completions teach nothing.

    They all did equally well, or none of them takes part in the loss.

    Args:
        rewards: full reward of each completion of the group.
        correct: whether each completion was judged correct.
        masked: whether each completion stays out of the loss.
        rule: "reward" compares full rewards (arXiv:2506.10910, the formula), "correctness" only the
            verdicts (its prose), "never" drops nothing.
    """
    if rule == "never":
        return False
    if all(masked):
        return True
    if rule == "reward":
        # Exact comparison: the same parts add up to the same float.
        return len(set(rewards)) == 1
    return len(set(correct)) == 1
