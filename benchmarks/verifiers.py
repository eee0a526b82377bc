"""The math verifier beside math-verify: who grades hand-checked pairs right, and how fast.

    python benchmarks/verifiers.py [--quick]

Both see the same pairs of tests/corpora, one after the other, on one core in one process. What they
import is imported before the clock starts. A first pass counts what is right and is timed; the
caches of ours are emptied before it, since a run grades a gold answer some sixteen times and a
corpus only once. math-verify parses both sides out of a box, with its default settings, which
include a timeout of five seconds for parsing and for comparing.
"""

import json
import logging
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from math_verify import parse, verify
from table import Row, parser_of, show_and_keep

from megatron_rl.math_answers import is_equal_answer
from megatron_rl.math_answers.algebra import same_formula
from megatron_rl.math_answers.equality import second_opinions
from megatron_rl.math_answers.readers.answer import read_answer

CORPORA = Path(__file__).parents[1] / "tests" / "corpora"
FILES = {
    "first": "math_pairs.jsonl",
    "second": "math_pairs_second.jsonl",
    "third": "math_pairs_third.jsonl",
}
Grade = Callable[[str, str], bool]


def main() -> None:
    """Measure and show."""
    options = parser_of(__doc__).parse_args()
    logging.disable(logging.CRITICAL)  # math-verify reports every timeout
    theirs = f"math-verify {version('math-verify')}"
    rows = []
    for name, file in FILES.items():
        pairs = [json.loads(line) for line in (CORPORA / file).read_text().splitlines()]
        pairs = pairs[:: 5 if options.quick else 1]
        forget()
        found = [measure("this", is_equal_answer, name, pairs)]
        found.append(measure(theirs, by_math_verify, name, pairs))
        speed = found[0]["answers/s"] / found[1]["answers/s"]
        rows += [found[0] | {"times theirs": speed}, found[1] | {"times theirs": 1.0}]
    show_and_keep("verifiers", "Math answers, one core", rows, output=options.output)


def forget() -> None:
    """Empty the caches of what was read and compared."""
    read_answer.cache_clear()
    same_formula.form_of.cache_clear()
    same_formula.are_same_formula.cache_clear()
    second_opinions.parse_for_second_opinion.cache_clear()


def by_math_verify(answer: str, gold: str) -> bool:
    """Return math-verify's opinion; what it cannot parse is wrong."""
    sides = [parse(f"\\boxed{{{text}}}") for text in (gold, answer)]
    return verify(sides[0], sides[1])


def measure(name: str, grade: Grade, corpus: str, pairs: list[dict]) -> Row:
    """Grade all pairs once and return what was right and how long that took."""
    accepted_wrongly = refused_wrongly = 0
    slowest_s, started_s = 0.0, time.process_time()
    for pair in pairs:
        before_s = time.process_time()
        verdict = grade(pair["answer"], pair["gold"])
        slowest_s = max(slowest_s, time.process_time() - before_s)
        accepted_wrongly += verdict and not pair["equal"]
        refused_wrongly += pair["equal"] and not verdict
    wrong = accepted_wrongly + refused_wrongly
    return {
        "pairs": corpus,
        "verifier": name,
        "number": len(pairs),
        "right %": 100 * (1 - wrong / len(pairs)),
        "wrongly accepted": accepted_wrongly,
        "wrongly refused": refused_wrongly,
        "answers/s": len(pairs) / (time.process_time() - started_s),
        "slowest ms": 1e3 * slowest_s,
    }


if __name__ == "__main__":
    main()
