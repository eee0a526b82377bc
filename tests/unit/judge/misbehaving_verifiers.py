"""Verifiers that do what a verifier must not do; judge workers import them by name."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from megatron_rl.protocols import GradeFn
from megatron_rl.types import Problem, Response, Verdict


def make(settings: dict[str, str]) -> GradeFn:
    """Return the verifier that obeys; a judge calls this in its process."""
    assert settings == {"from": "the judge"}
    return obey


def obey(problem: Problem, response: Response) -> Verdict:
    """Do what the answer says; ``once:PATH:ACTION`` does it only the first time."""
    text = response.answer
    if text.startswith("once:"):
        _, mark, text = text.split(":", 2)
        if Path(mark).exists():
            text = "fine"
        Path(mark).touch()
    ACTIONS.get(text, lambda: None)()
    return Verdict(format_ok=True, correct=text == problem.answer, answer=str(os.getpid()))


def _raise() -> None:
    raise ZeroDivisionError("on purpose")


def _hang_in_c() -> None:
    # A single call that holds the interpreter lock for minutes.
    (9**9**7) ** 999


def _spawn_and_hang() -> None:
    child = subprocess.Popen(["sleep", "60"])
    Path(os.environ["CHILD_PID_FILE"]).write_text(str(child.pid))
    time.sleep(60)


def _print() -> None:
    print("to stdout")
    sys.stdin.read()


KEPT: list[bytes] = []
ACTIONS = {
    "hang": lambda: time.sleep(60),
    "hang in C": _hang_in_c,
    "exit": lambda: os._exit(3),
    "be killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "be aborted": lambda: os.kill(os.getpid(), signal.SIGABRT),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "raise": _raise,
    "spawn and hang": _spawn_and_hang,
    "print": _print,
    "eat": lambda: bytearray(600 << 20),
    "grow": lambda: KEPT.append(b"x" * (140 << 20)),  # for good
    "take a while": lambda: time.sleep(0.1),
}
