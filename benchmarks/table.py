"""Table of a benchmark's measurements, on the terminal and in a JSON file."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]


def parser_of(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small and short, for a look")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/bench"), help="folder of the results (JSON)"
    )
    return parser


def show_and_keep(name: str, title: str, rows: Sequence[Row], *, output: Path) -> None:
    """Print rows of equal columns and write ``OUTPUT/NAME.json`` with the machine's load."""
    table = Table(title=title, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console(width=max(100, Console().width)).print(table)
    output.mkdir(parents=True, exist_ok=True)
    record = {
        "benchmark": name,
        "cores": len(os.sched_getaffinity(0)),
        # Above the benchmark's own share, something else was running.
        "load_average": os.getloadavg()[0],
        "rows": [dict(row) for row in rows],
    }
    (output / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
