"""Code answers without running them: a response's program, a problem's tests, their outputs.

Example of ``Problem.extra``, with stdin and stdout or with a function (Python only)::

    {"language": "cpp", "tests": [{"input": "1 2\\n", "output": "3\\n"}], "tolerance": 1e-6}
    {"language": "python", "function": "add", "tests": [{"args": [1, 2], "expected": 3}]}
"""

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from megatron_rl.errors import DataError
from megatron_rl.types import Problem

LANGUAGES = ("cpp", "python")
"""Languages that solutions may be written in."""

_ALIASES = {
    **dict.fromkeys(("cpp", "c++", "cxx", "cc", "c++17", "c++20", "cpp17", "cpp20"), "cpp"),
    **dict.fromkeys(("python", "python3", "py", "py3"), "python"),
}
# A fence is closed by one of the same character that is at least as long and alone on its line.
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})([^\n`]*)$", re.MULTILINE)
_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_TOKEN = re.compile(r"\S+")
_SHOWN = 40
# JSON of the same value is never longer by more, whatever its layout and number format.
_SPARE_CHARACTERS, _TIMES_AS_LONG = 1 << 20, 100


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeBlock:
    """A fenced block that names its language."""

    language: str
    """One of LANGUAGES, or the name on the fence in lower case."""
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeTest:
    """One test: the input for the program, and the expected output, which it never sees."""

    number: int
    """Number of the test in its problem, from 1."""
    stdin: str
    """Input of the program; the arguments as a JSON list for a function."""
    expected: Any
    """Expected output; any JSON value for a function."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeTask:
    """Task of a code problem: language, tests, function, tolerance."""

    language: str
    function: str | None
    """Name of the function to call; None for programs that read stdin and print."""
    tolerance: float | None
    """Largest absolute or relative error of a decimal; None for exact outputs."""
    tests: tuple[CodeTest, ...]


def find_first_code(text: str) -> CodeBlock | None:
    """Return the first complete fenced block of ``text`` that names its language, None if none."""
    fences = iter(_FENCE.finditer(text))
    for opening in fences:
        fence, info = opening[1], opening[2].split()
        closing = next(
            (f for f in fences if not f[2].strip() and f[1].startswith(fence)),
            None,
        )
        if closing is None:
            return None
        if info:
            indent = len(opening[0]) - len(opening[0].lstrip())
            body = text[opening.end() + 1 : closing.start()]
            name = info[0].lower()
            return CodeBlock(
                language=_ALIASES[name] if name in _ALIASES else name,
                source=_dedent(body, indent),
            )
    return None


def read_code_task(problem: Problem, *, tolerance: float) -> CodeTask:
    """Return the task in ``problem.extra``.

    Args:
        problem: the problem, whose tests are checked.
        tolerance: tolerance if the problem says ``"tolerance": true``.

    Raises:
        DataError: names the missing or malformed field.
    """
    extra = problem.extra
    language = _field(extra, "language", str)
    if language not in LANGUAGES:
        raise DataError(f'language "{language}" is none of {", ".join(LANGUAGES)}')
    function = _field(extra, "function", str) if "function" in extra else None
    if function is not None and language != "python":
        raise DataError("a function can be tested in python only; give stdin and stdout instead")
    if function is not None and not function.isidentifier():
        raise DataError(f'function "{function}" is not a name')
    records = _field(extra, "tests", list)
    if not records:
        raise DataError("tests are empty")
    read = _read_program_test if function is None else _read_function_test
    tests = tuple(read(number, record) for number, record in enumerate(records, 1))
    allowed = _read_tolerance(extra, tolerance)
    return CodeTask(language=language, function=function, tolerance=allowed, tests=tests)


def find_code_fault(problem: Problem) -> str | None:
    """Return why no solution of this problem could be verified, None if one could."""
    try:
        read_code_task(problem, tolerance=0.0)
    except DataError as error:
        return str(error)
    return None


def draw_tests(task: CodeTask, problem_id: str, *, num_tests: int) -> list[CodeTest]:
    """Return at most ``num_tests`` tests, in order, the same for every response to a problem."""
    if len(task.tests) <= num_tests:
        return list(task.tests)
    seed = int.from_bytes(hashlib.sha256(problem_id.encode()).digest()[:8], "big")
    places = random.Random(seed).sample(range(len(task.tests)), num_tests)
    return [task.tests[place] for place in sorted(places)]


def find_output_fault(task: CodeTask, test: CodeTest, output: str) -> str | None:
    """Return how a program's output differs from the expected one, None if it does not."""
    if task.function is None:
        return _find_token_fault(output, test.expected, task.tolerance)
    longest = _SPARE_CHARACTERS + _TIMES_AS_LONG * len(json.dumps(test.expected))
    if len(output) > longest:  # once parsed, the text could take twenty times its length
        return f"the result has {len(output)} characters, {_shown(test.expected)} was expected"
    try:
        value = json.loads(output)
    except (ValueError, RecursionError):  # the function returned something that is not JSON
        return f"the result is not JSON: {_shown(output)}"
    try:
        is_equal = _are_equal(value, test.expected, task.tolerance)
    except RecursionError:
        return "the result is nested too deeply"
    return None if is_equal else f"got {_shown(output)}, expected {_shown(test.expected)}"


def _find_token_fault(found: str, expected: str, tolerance: float | None) -> str | None:
    """Compare outputs token by token: blanks and line breaks only separate.

    Tokens are read one at a time: a list of all tokens of a long output is many times its size.
    """
    pairs = itertools.zip_longest(_tokens(found), _tokens(expected))
    for place, (token, wanted) in enumerate(pairs, 1):
        if token is None or wanted is None:
            num_found, num_expected = (sum(1 for _ in _tokens(text)) for text in (found, expected))
            return f"{num_found} tokens, expected {num_expected}"
        if token != wanted and not _is_close_token(token, wanted, tolerance):
            return f"token {place} is {_shown(token)}, expected {_shown(wanted)}"
    return None


def _tokens(text: str) -> Iterator[str]:
    return (match[0] for match in _TOKEN.finditer(text))


def _is_close_token(token: str, wanted: str, tolerance: float | None) -> bool:
    if tolerance is None or not (_NUMBER.fullmatch(token) and _NUMBER.fullmatch(wanted)):
        return False
    if _INTEGER.fullmatch(token) and _INTEGER.fullmatch(wanted):
        return token.lstrip("+") == wanted.lstrip("+")
    is_exact = _INTEGER.fullmatch(wanted) is not None
    return _is_close(float(token), float(wanted), tolerance, is_relative=not is_exact)


def _is_close(found: float, wanted: float, tolerance: float, *, is_relative: bool) -> bool:
    # Integers are compared exactly: with a tolerance, a million and a million and one are equal.
    scale = max(1.0, abs(wanted)) if is_relative else 1.0
    return math.isfinite(found) and abs(found - wanted) <= tolerance * scale


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return math.inf


def _are_equal(found: Any, wanted: Any, tolerance: float | None) -> bool:
    """Compare JSON values; true is not 1, but 1.0 is."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        if found == wanted or tolerance is None:
            return found == wanted
        is_whole = isinstance(wanted, int)
        if is_whole and isinstance(found, int):
            return False
        return _is_close(_as_float(found), _as_float(wanted), tolerance, is_relative=not is_whole)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(
            _are_equal(left, right, tolerance) for left, right in zip(found, wanted, strict=True)
        )
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(
            _are_equal(found[key], wanted[key], tolerance) for key in wanted
        )
    return bool(found == wanted)


def _read_program_test(number: int, record: Any) -> CodeTest:
    where = f"test {number}"
    stdin = _field(record, "input", str, where)
    return CodeTest(number=number, stdin=stdin, expected=_field(record, "output", str, where))


def _read_function_test(number: int, record: Any) -> CodeTest:
    where = f"test {number}"
    arguments = _field(record, "args", list, where)
    if "expected" not in record:
        raise DataError(f'{where} has no "expected"')
    return CodeTest(number=number, stdin=json.dumps(arguments), expected=record["expected"])


def _read_tolerance(extra: Mapping[str, Any], default: float) -> float | None:
    if "tolerance" not in extra or extra["tolerance"] in (None, False):
        return None
    value = extra["tolerance"]
    if value is True:
        return default
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise DataError(f"tolerance ({value!r}) must be true or a number between 0 and 1")
    return float(value)


def _field(record: Any, name: str, kind: type, where: str = "the problem") -> Any:
    if not isinstance(record, Mapping) or name not in record:
        raise DataError(f'{where} has no "{name}"')
    if not isinstance(record[name], kind):
        found = type(record[name]).__name__
        raise DataError(f'"{name}" of {where} must be {kind.__name__}, got {found}')
    return record[name]


def _dedent(body: str, indent: int) -> str:
    """Remove the indentation of the opening fence from each line that has it."""
    if not indent:
        return body
    return re.sub(rf"^[ \t]{{1,{indent}}}", "", body, flags=re.MULTILINE)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = text.strip()
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
