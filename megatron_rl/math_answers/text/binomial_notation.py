r"""Binomial notation of schools: C_{10}^{3}, {}_{10}C_{3}, arrangements such as A_5^2.

C, A and P are also names of points and constants. The notation is therefore a second reading of an
answer, for gold answers without these letters.
"""

import math
import re

_LETTER = r"(?:\\(?:mathrm|text|operatorname)\{\s*([CAP])\s*\}|([CAP]))"
_NUMBER = r"(?:\{\s*(\d{1,3})\s*\}|(\d))"
_FORMS = tuple(
    re.compile(form)
    for form in (
        rf"(?<![A-Za-z\\_}}]){_LETTER}\s*_\s*{_NUMBER}\s*\^\s*{_NUMBER}",  # C_{10}^{3}
        rf"(?<![\w}}])(?:\{{\}})?\s*[_^]\s*{_NUMBER}\s*{_LETTER}\s*_\s*{_NUMBER}",  # {}_{10}C_{3}
        rf"(?<![A-Za-z\\_}}]){_LETTER}\s*\(\s*(\d{{1,3}})\s*,\s*(\d{{1,3}})\s*\)",  # C(10,3)
    )
)


def write_out_binomials(answer: str, gold: str) -> str | None:
    """Return the answer with its binomial notation written out, None if there is none."""
    if any(letter in gold for letter in "CAP"):
        return None
    written = answer
    for form in _FORMS:
        written = form.sub(_write, written)
    return None if written == answer else written


def _write(match: "re.Match[str]") -> str:
    letter, whole, chosen = _parts(match)
    if chosen > whole:
        return match[0]
    count = math.comb if letter == "C" else math.perm
    return f"({count(whole, chosen)})"


def _parts(match: "re.Match[str]") -> tuple[str, int, int]:
    found = [group for group in match.groups() if group is not None]
    (letter,) = (part for part in found if part.isalpha())
    whole, chosen = (int(part) for part in found if part.isdigit())
    return letter, whole, chosen
