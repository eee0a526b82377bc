"""Make one table and one plot of all context lengths that measure.py has left in a folder.

    python examples/long_context/summarize.py runs/long_context

Writes table.md, table.json and scaling.svg there, and prints the table.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling_plot import draw

from megatron_rl.cli import exit_code_of
from megatron_rl.errors import ConfigError
from megatron_rl.run_dir import publish_atomically, write_json

Row = Mapping[str, Any]
COLUMNS = {
    "layout": "layout",
    "length": "context",
    "rope factor": "RoPE",
    "sequences": "N",
    "tokens/s": "tokens/s",
    "measured MiB": "MiB",
    "estimated MiB": "planned",
    "padding": "padding %",
    "room": "empty %",
    "over_dp": "dp FLOPs",
    "over_cp": "cp FLOPs",
    "server tokens": "KV tokens",
    "server sequences": "fit",
}
"""Fields of a record, and what the table calls them."""
_SHARES = ("padding", "room")
_TABLE = "table.json"


def main(argv: Sequence[str] | None = None) -> int:
    """Write table and plot; 2 when nothing was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of measure.py's JSON files")
    options = parser.parse_args(argv)
    return exit_code_of(lambda: _summarize(options.folder))


def _summarize(folder: Path) -> int:
    rows = read_rows(folder)
    text = markdown_of(rows)
    write_json(folder / _TABLE, rows)
    publish_atomically(folder / "table.md", text.encode())
    publish_atomically(folder / "scaling.svg", draw(rows).encode())
    print(text, end="")
    return 0


def read_rows(folder: Path) -> list[Row]:
    """Return every measurement of a folder, layout by layout, shortest context first.

    Raises:
        ConfigError: there is none.
    """
    paths = [path for path in folder.glob("*_*.json") if path.name != _TABLE]
    if not paths:
        raise ConfigError(f"{folder}: no measurement there; run measure.py --out {folder} first")
    rows = [json.loads(path.read_text()) for path in paths]
    return sorted(rows, key=lambda row: (row["layout"], row["length"]))


def markdown_of(rows: Sequence[Row]) -> str:
    """Return the table; what was only estimated has no speed and no peak."""
    lines = [f"| {' | '.join(COLUMNS.values())} |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    lines += [f"| {' | '.join(_cell(row, name) for name in COLUMNS)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(row: Row, name: str) -> str:
    if name not in row:
        return "-"
    value = row[name]
    if name in _SHARES:
        return f"{100 * value:.1f}"
    if name in ("over_dp", "over_cp"):
        return f"{value:.3f}"
    if isinstance(value, float):
        return f"{value:g}" if name == "rope factor" else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
