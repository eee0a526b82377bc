"""A verifier of one's own: an answer of a given number of words that uses given ones."""

import re

from megatron_rl.types import Problem, Verdict

_WORD = re.compile(r"\w+(?:['-]\w+)*")


def verify(problem: Problem, text: str) -> Verdict:
    """Judge whether the answer has ``num_words`` words and uses all of ``must_use``.

    ``problem.extra`` holds whatever the problem's line of the data file says beside id, problem,
    answer and kind. ``text`` starts with <think> and has one pair of these tags, whatever the
    tags of the model are.
    """
    answer = text.rpartition("</think>")[2].strip()
    words = [word.lower() for word in _WORD.findall(answer)]
    missing = [word for word in problem.extra["must_use"] if word.lower() not in words]
    if not words:
        return Verdict(format_ok=True, correct=False, is_parsable=False, reason="no answer")
    wanted = problem.extra["num_words"]
    reason = ""
    if len(words) != wanted:
        reason = f"{len(words)} words instead of {wanted}"
    elif missing:
        reason = f"does not use {', '.join(missing)}"
    return Verdict(format_ok=True, correct=not reason, answer=answer, reason=reason)
