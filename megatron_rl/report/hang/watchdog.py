"""Watchdog lines of NCCL in the logs: the last collective of each rank. Pure.

PyTorch's flight recorder writes its records pickled, which nothing here reads; what its watchdog
says of a collective that took too long has the essence in words.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megatron_rl.report.hang.findings import ranks_text

_RANK = re.compile(r"\[rank(\d+)\]:|Rank (\d+)\]")
_GROUP = re.compile(r"\[PG (?:ID )?(\d+)")
_TIMED_OUT = re.compile(r"WorkNCCL\(SeqNum=(\d+), OpType=(\w+).*?ran for (\d+) milliseconds")
_LAST = re.compile(
    r"last enqueued NCCL work: (-?\d+), last completed NCCL work: (-?\d+)", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchdogReport:
    """Collectives of one rank in one process group, by their numbers in its order."""

    rank: int
    group: str
    """The process group's number; empty where the line does not say."""
    enqueued: int
    completed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedOut:
    """A collective that one rank waited for in vain."""

    rank: int
    number: int
    operation: str
    seconds: float


def read_watchdog(lines: Iterable[str]) -> tuple[list[WatchdogReport], list[TimedOut]]:
    """Return what the watchdogs said, the last word of each rank and group."""
    reports: dict[tuple[int, str], WatchdogReport] = {}
    timed_out: dict[tuple[int, int, str], TimedOut] = {}
    for line in lines:
        rank = _RANK.search(line)
        if rank is None:
            continue
        number = int(rank[1] or rank[2])
        group = _GROUP.search(line)
        if last := _LAST.search(line):
            name = "" if group is None else group[1]
            reports[number, name] = WatchdogReport(
                rank=number, group=name, enqueued=int(last[1]), completed=int(last[2])
            )
        if late := _TIMED_OUT.search(line):
            timed_out[number, int(late[1]), late[2]] = TimedOut(
                rank=number,
                number=int(late[1]),
                operation=late[2],
                seconds=int(late[3]) / 1000,
            )
    return list(reports.values()), list(timed_out.values())


def explain_watchdog(reports: Sequence[WatchdogReport], timed_out: Sequence[TimedOut]) -> list[str]:
    """Say which collective was waited for in vain, and which ranks had not come to it."""
    sentences = []
    for number, operation in sorted({(late.number, late.operation) for late in timed_out}):
        of_it = [late for late in timed_out if (late.number, late.operation) == (number, operation)]
        ranks = ranks_text(late.rank for late in of_it)
        longest = max(late.seconds for late in of_it)
        sentences.append(
            f"NCCL gave up collective {number} ({operation}) of {ranks} after {longest:.0f} s."
        )
    for group in sorted({report.group for report in reports}):
        of_group = [report for report in reports if report.group == group]
        furthest = max(report.enqueued for report in of_group)
        behind = [report for report in of_group if report.enqueued < furthest]
        if behind:
            name = f" of process group {group}" if group else ""
            numbers = ", ".join(f"rank {r.rank} at {r.enqueued}" for r in behind)
            sentences.append(
                f"The last collective{name} that a rank asked for is number {furthest}; not all "
                f"have come to it: {numbers}. The others wait for these."
            )
    return sentences
