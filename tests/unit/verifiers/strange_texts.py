"""Whole responses that no model should write, for fuzzing: tags, prose, formulas, code, anything.

Also half of a surrogate pair, which JSON can hold and UTF-8 cannot.
"""

from hypothesis import strategies as st

from megatron_rl.thinking import THINK, read_text
from megatron_rl.types import Problem, Verdict
from megatron_rl.verifiers import verify_response
from megatron_rl.verifiers.code import find_first_code
from megatron_rl.verifiers.math import verify_math
from tests.unit.verifiers.strange_responses import GOLDS

_PROSE = [
    "Let us think about the sum of all digits of the number. ",
    "Donc la somme de tous les chiffres du nombre est paire. ",
    "\u6240\u4ee5\u7b54\u6848\u662f\u4e94\uff0c\u5bf9\u5417\uff1f\u6211\u4eec\u518d\u68c0\u67e5\u4e00\u904d\u3002",
    *["\ud800", "\udfff", "\x00", "\u202e", "\u200d", "\U0001f600", "a\u0301", "\r\n", "\u2028"],
]
_MARKS = [
    *["<think>", "</think>", "<think>hm</think>", "<think></think>", "</think", "<THINK>"],
    *[r"\boxed{", r"\boxed{5}", r"\boxed{}", "}", "$", "$$", r"\(", r"\)", r"\[", r"\]", "`"],
    *["\n```cpp\n", "\n```python\n", "\n```\n", "\n~~~py\n", "\n~~~\n", "```", "  ```` c++\n"],
    *[r"\begin{align}", r"\end{align}", r"\begin{", "https://a.b/", r"\text{", "int main() {}"],
]
_ANYTHING = st.text(st.characters(exclude_categories=()), max_size=20)
_PARTS = st.one_of(st.sampled_from(_PROSE), st.sampled_from(_MARKS), _ANYTHING)
TEXTS = st.lists(_PARTS, max_size=10).map("".join)
RESPONSES = st.one_of(
    st.tuples(TEXTS, TEXTS).map(lambda parts: f"<think>{parts[0]}</think>{parts[1]}"),
    st.tuples(TEXTS, TEXTS, TEXTS).map(
        lambda parts: f"<think>{parts[0]}</think>{parts[1]}\\boxed{{{parts[2]}}}"
    ),
    st.tuples(TEXTS, TEXTS).map(
        lambda parts: f"<think>{parts[0]}</think>\n```cpp\n{parts[1]}\n```\n"
    ),
    TEXTS,
)
QUESTIONS = st.tuples(TEXTS, GOLDS, st.sampled_from(("math", "code")))
"""Text, gold answer and kind."""


def check(question: tuple[str, str, str], response: str) -> None:
    """Judge as a judge does, but for the running of solutions, and check the verdict's parts."""
    text, gold, kind = question
    problem = Problem(id="a", text=text, answer=gold, kind=kind)
    verifiers = {"math": verify_math, "code": _find_code}
    read = read_text(response, THINK, "unopened")
    verdict = verify_response(verifiers, problem, read, is_language_asked=True)
    assert verdict.correct in (True, False)
    assert verdict.format_ok or not verdict.correct
    assert verdict.language_ok in (True, False, None)


def _find_code(problem: Problem, text: str) -> Verdict:
    block = find_first_code(text)
    assert block is None or block.language
    return Verdict(format_ok=True, correct=False, answer=None if block is None else block.source)
