"""Forensics of a run that hangs: the stacks of its processes here, and what they mean together."""

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from megatron_rl.report.hang.findings import Observed, explain_states, explain_waits
from megatron_rl.report.hang.processes import RunProcess, find_processes
from megatron_rl.report.hang.stacks import INSTALL, Frame, Stack, dump_stacks, find_py_spy
from megatron_rl.report.hang.waits import Wait, wait_of
from megatron_rl.report.hang.watchdog import explain_watchdog, read_watchdog


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One process, where it is and its stack."""

    name: str
    place: str
    stack: str
    """Text, the innermost call first; or why there is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forensics:
    """Findings about a run at one moment."""

    sentences: Sequence[str]
    findings: Sequence[Finding]


def examine(run_dir: Path, log_lines: Iterable[str]) -> Forensics:
    """Look at the processes of the run on this machine. It takes up to seconds.

    Args:
        run_dir: the run's folder, absolute.
        log_lines: the last lines of the learners' logs, which may have NCCL's last words.
    """
    processes = find_processes(run_dir)
    sentences = [*explain_watchdog(*read_watchdog(log_lines)), *explain_states(processes)]
    py_spy = find_py_spy()
    if not processes:
        sentences.append(
            f"No process of this run is on {socket.gethostname()}, or it belongs to another user. "
            "Look on the machine of the learner: megatron-rl watch RUN_DIR --stacks."
        )
    elif py_spy is None:
        here = ", ".join(f"{process.name} is process {process.pid}" for process in processes)
        sentences.append(f"To see stacks, {INSTALL} where this program is installed; {here}.")
    if py_spy is None:
        return Forensics(sentences=sentences, findings=[])
    stacks = dump_stacks([process.pid for process in processes], py_spy=py_spy)
    findings = [_finding(process, stacks[process.pid]) for process in processes]
    ranks = [
        Observed(process=process, wait=wait_of(stack.frames))
        for process in processes
        if process.program in ("learn", "sft") and isinstance(stack := stacks[process.pid], Stack)
    ]
    return Forensics(sentences=[*sentences, *explain_waits(ranks)], findings=findings)


def forensics_html(forensics: Forensics) -> str:
    """Return the findings for the page."""
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in forensics.sentences)
    entries = "".join(
        f'<details class="card stack"><summary>{escape(f.name)}: {escape(f.place)}</summary>'
        f"<pre>{escape(f.stack)}</pre></details>"
        for f in forensics.findings
    )
    return sentences + entries


def forensics_text(forensics: Forensics) -> str:
    """Return the findings for a terminal."""
    stacks = [
        f"{finding.name}: {finding.place}\n{_indented(finding.stack)}"
        for finding in forensics.findings
    ]
    return "\n".join([*forensics.sentences, *stacks])


def _finding(process: RunProcess, stack: Stack | str) -> Finding:
    name = f"{process.name} (process {process.pid})"
    if isinstance(stack, str):
        return Finding(name=name, place="its stack cannot be read", stack=stack)
    threads = [f"thread {who}:\n{_lines(frames)}" for who, frames in stack.others if frames]
    return Finding(
        name=name,
        place=_place(wait_of(stack.frames)),
        stack="\n".join([_lines(stack.frames), *threads]),
    )


def _place(wait: Wait) -> str:
    if wait.kind == "collective":
        return f"waits in {wait.what}, called by {wait.caller}"
    return wait.what if wait.kind in ("known", "device") else f"in {wait.what}"


def _lines(frames: Sequence[Frame]) -> str:
    return "\n".join(f"  {frame.function} ({frame.file}:{frame.line})" for frame in frames)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
