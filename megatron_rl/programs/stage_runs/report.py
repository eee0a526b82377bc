"""Report of a check: all results with machine, versions and command, and its JSON file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.programs.stage_runs.result import BAD, StageResult, result_record
from megatron_rl.run_dir import write_json

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything a person sends who wants to know what is wrong, or to say that all is well."""

    title: str
    command: str
    date: str
    is_rehearsal: bool
    machine: Mapping[str, Any]
    versions: Mapping[str, Any]
    num_planned: int
    results: Sequence[StageResult]

    @property
    def failed(self) -> list[str]:
        """Names of the stages that did not pass."""
        return [result.name for result in self.results if result.status in BAD]

    @property
    def verdict(self) -> str:
        """One line."""
        counts = {"passed": 0, "failed": 0, "timed out": 0, "skipped": 0}
        for result in self.results:
            counts[result.status] += 1
        words = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        missing = self.num_planned - len(self.results)
        return f"{words}, {missing} to come" if missing else words


def write_report_json(path: Path, report: Report) -> None:
    """Write the report for programs to read."""
    write_json(
        path,
        {
            "format": FORMAT_VERSION,
            "command": report.command,
            "date": report.date,
            "is_rehearsal": report.is_rehearsal,
            "verdict": report.verdict,
            "failed": report.failed,
            "machine": report.machine,
            "versions": report.versions,
            "stages": [result_record(result) for result in report.results],
        },
    )
