"""Problem files read as a run reads them, but for the judge and the tokenizer."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from megatron_rl.config import ColumnsConfig, column_names
from megatron_rl.data.problem_file import open_problem_file
from megatron_rl.data.problem_scan import Scan, first_of_each, scan_rows
from megatron_rl.data.problems import ProblemRow, faults_error
from megatron_rl.types import Problem


def scan_file(
    path: Path,
    columns: ColumnsConfig | None = None,
    *,
    kinds: Collection[str] | None = None,
    check: Callable[[Sequence[Problem]], Sequence[str | None]] | None = None,
) -> tuple[Scan, list[ProblemRow]]:
    """Return what a scan finds, and the rows that are left, each once."""
    file = open_problem_file(path, column_names(columns))

    def glance(problem: Problem) -> tuple[str | None, str | None]:
        return (None if check is None else check([problem])[0]), None

    scan = scan_rows(file, 0, len(file.rows), kinds=kinds, glance=glance)
    if scan.faulty_rows:
        raise faults_error(list(scan.fault_texts.values()), num=len(scan.faulty_rows))
    return scan, [file.row(row) for row in scan.rows_K[first_of_each(scan, file)].tolist()]


def load_problems(path: Path, **given: object) -> list[Problem]:
    """Return the problems of a file."""
    return [row.problem for row in scan_file(path, **given)[1]]  # type: ignore[arg-type]
