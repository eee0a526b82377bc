"""Views of recorded completions, for people: what a batch says of one, with its text."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from megatron_rl.report.completions import CompletionView

Decode = Callable[[list[int]], str]
"""Token ids to text."""


def view_of(
    sample: Mapping[str, Any],
    *,
    step: int,
    token_ids: Sequence[int],
    versions: Sequence[int],
    decode: Decode,
) -> CompletionView:
    """Return the view of one completion.

    Args:
        sample: its record in ``Batch.samples``.
        step: of its batch.
        token_ids: what was sampled, without the prompt.
        versions: the policy version that sampled each token.
        decode: token ids to text.
    """
    runs = groupby(zip(versions, token_ids, strict=True), key=lambda pair: pair[0])
    return CompletionView(
        step=step,
        problem=sample["problem"],
        gold=sample["gold"],
        spans=[(version, decode([i for _, i in run])) for version, run in runs],
        reward_parts=sample["reward"],
        correct=sample["correct"],
        reason=sample["reason"],
        flaws=flaws_of(sample),
    )


def flaws_of(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which of ``FLAWS`` a record of ``Batch.samples`` tells of."""
    # Batches of earlier versions do not say whether the format was kept.
    is_malformed = "format_ok" in sample and not sample["format_ok"]
    is_truncated = sample["finish_reason"] == "length"
    return ("malformed",) * is_malformed + ("truncated",) * is_truncated
