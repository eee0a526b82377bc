"""Prompt lengths of a problem file: a bound for all, exact where the bound is too long.

A token stands for at least a byte of text, so that most prompts need not be tokenized to know that
they are short enough. Shape letter: P = problems.
"""

from collections.abc import Callable, Sequence

import numpy as np

from megatron_rl.data.chat_messages import Message
from megatron_rl.programs.builders.problem_survey import Survey

MakePromptFn = Callable[[str | Sequence[Message]], tuple[int, ...]]
"""Returns the token ids of a prompt that asks a text or a chat."""
MeasureFn = Callable[[np.ndarray], np.ndarray]
"""Returns the exact lengths of the prompts of some rows."""

_SPARE_TOKENS = 8  # where the texts of template and problem meet
_TRIED = 32


def prompt_lengths(
    survey: Survey, make_prompt: MakePromptFn, *, exact_above: int, measure: MeasureFn
) -> np.ndarray:
    """Return [P] int64 lengths, exact where they are more than ``exact_above``, else a bound.

    One prompt of each sequence of roles is made in any case, so that a template which refuses it
    says so.

    Args:
        survey: the problems.
        make_prompt: makes one prompt.
        exact_above: most tokens of a prompt whose length does not matter.
        measure: makes many.

    Raises:
        ModelError: the chat template refuses a prompt.
    """
    bounds_P = survey.sizes_P + _template_tokens(survey, make_prompt) + _SPARE_TOKENS
    # A tokenizer that writes more tokens than bytes, or a template that repeats the problem.
    places = np.unique(np.linspace(0, len(bounds_P) - 1, _TRIED).astype(np.int64))
    tried = measure(survey.rows_P[places])
    is_bounded = bool((tried <= bounds_P[places]).all())
    doubtful = np.flatnonzero(bounds_P > exact_above) if is_bounded else np.arange(len(bounds_P))
    if len(doubtful):
        bounds_P[doubtful] = measure(survey.rows_P[doubtful])
    return bounds_P


def _template_tokens(survey: Survey, make_prompt: MakePromptFn) -> int:
    """Return the most tokens that the template adds, over all sequences of roles."""
    most = 0
    for row in survey.shapes.values():
        asked = survey.file.row(row).asked
        make_prompt(asked)
        if isinstance(asked, str):
            probe: str | Sequence[Message] = "x"
        else:
            probe = [{**message, "content": "x"} for message in asked]
        most = max(most, len(make_prompt(probe)))
    return most
