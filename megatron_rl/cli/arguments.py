"""Arguments that several commands and tools share."""

import argparse
from pathlib import Path


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the configuration, ``--set`` and ``--dry-run``."""
    parser.add_argument(
        "config", type=Path, help="run configuration (TOML), or the config.json of a run folder"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one setting, null removes it; may be repeated",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="validate, print the resolved configuration, exit"
    )


def add_grading(parser: argparse.ArgumentParser) -> None:
    """Add the number of verifier processes and the configuration they are made by."""
    parser.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="verifier processes (default: judge.num_workers of --config, else one per core)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="RUN.toml",
        help="run configuration; only its sections judge and reward are read",
    )


def positive(text: str) -> int:
    """Read a whole number from 1; for ``type=`` of an argument."""
    return _whole_number(text, at_least=1)


def index(text: str) -> int:
    """Read a whole number from 0; for ``type=`` of an argument."""
    return _whole_number(text, at_least=0)


def _whole_number(text: str, *, at_least: int) -> int:
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= {at_least}")
    return int(text)
