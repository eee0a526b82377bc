"""System messages of a chat template: whether one reaches the prompt, tried before a run."""

from collections.abc import Callable, Sequence

# Two texts of which neither is part of the other, and no template's own.
_PROBES = ("Answer with qvxzkj.", "Think of wjkqzx first.")


def is_left_out(build: Callable[[str], Sequence[int]]) -> bool:
    """Return whether the template leaves a system message out of the prompt without a word.

    Args:
        build: system message to the token ids of some prompt.
    """
    first, second = (build(probe) for probe in _PROBES)
    return first == second
