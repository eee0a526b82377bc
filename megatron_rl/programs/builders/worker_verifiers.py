"""Verifiers of a judge's worker process, built from plain settings.

Settings are JSON: ``{"language": bool, "code": {...}, "own": {kind: "module:function"}}``, that is
whether languages are compared, the limits of solutions that run, and verifiers of one's own.
"""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_rl.errors import VerifierError
from megatron_rl.programs.builders.answer_batches import BATCH_KIND, check_batch
from megatron_rl.protocols import GradeFn, Verifier
from megatron_rl.types import Problem, Response, Verdict
from megatron_rl.verifiers import verify_response

if TYPE_CHECKING:
    from megatron_rl.code_judging import CodeVerifier

KINDS = ("math", "code")
"""Kinds that the package judges itself."""

_WARM_UP = Problem(id="warm-up", text="What is the square of a sum?", answer="x^2+2x+1")
_ITS_RESPONSE = Response(thoughts=_WARM_UP.text, answer=r"\boxed{(x+1)^2}", fault=None)


def make_verifier(settings: Mapping[str, Any]) -> GradeFn:
    """Return the judge of responses to problems of every kind; slow parts are loaded.

    Raises:
        VerifierError: a verifier of one's own cannot be imported.
    """
    from megatron_rl.verifiers.math import verify_math

    verifiers = {kind: _load_own(name) for kind, name in settings["own"].items()}
    verifiers["math"] = verify_math
    verifiers["code"] = _CodeOnDemand(settings["code"])
    verify = functools.partial(verify_response, verifiers, is_language_asked=settings["language"])
    # The first answer that takes algebra would else wait for a computer algebra system to load,
    # and the first that does not for the language model.
    verify(_WARM_UP, _ITS_RESPONSE)
    return verify


def make_problem_checker(settings: Mapping[str, Any]) -> GradeFn:
    """Return what says of a problem whether a response could ever be right, as a verdict on any.

    The reason of a verdict that is not correct says what is wrong with the problem.

    Raises:
        VerifierError: a verifier of one's own cannot be imported.
    """
    for name in settings["own"].values():
        _load_own(name)
    _check_problem(_WARM_UP, _ITS_RESPONSE)
    return _check_problem


def _check_problem(problem: Problem, response: Response) -> Verdict:
    if problem.kind == BATCH_KIND:
        return check_batch(problem)
    from megatron_rl.math_answers import find_gold_fault

    fault = find_gold_fault(problem.answer) if problem.kind == "math" else None
    return Verdict(format_ok=True, correct=fault is None, reason=fault or "")


class _CodeOnDemand:
    """The code verifier, opened by the first code problem: its sandbox tests itself first.

    A verifier that failed is closed: its sandbox may be dead, and would fail on every answer.
    """

    def __init__(self, limits: Mapping[str, Any]) -> None:
        self._limits = limits
        self._verify: CodeVerifier | None = None

    def __call__(self, problem: Problem, text: str) -> Verdict:
        if self._verify is None:
            from megatron_rl.code_judging import CodeLimits, make_code_verifier

            self._verify = make_code_verifier(CodeLimits(**self._limits))
        try:
            return self._verify(problem, text)
        except VerifierError:
            self._verify.close()
            self._verify = None
            raise


def _load_own(name: str) -> Verifier:
    """Import ``module:function`` or ``path/to/file.py:function``."""
    where, _, function = name.rpartition(":")
    try:
        module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
        verifier: Verifier = getattr(module, function)
    except (ImportError, AttributeError, OSError, SyntaxError) as error:
        raise VerifierError(f"judge.verifiers: {name} cannot be imported: {error}") from error
    return verifier


def _load_module(name: str) -> Any:
    return importlib.import_module(name)


def _load_file(path: Path) -> Any:
    # What lies beside it can be imported, as if it were run.
    sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, f"{path} ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
