"""Arguments that several commands and tools share."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the run's configuration and ``--set``."""
    parser.add_argument(
        "config", type=Path, help="run configuration (TOML), or the config.json of a run folder"
    )
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override one setting, null removes it; may be repeated",
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


def add_nodes(parser: argparse.ArgumentParser) -> None:
    """Add what a Slurm job is given, instead of what the configuration says."""
    parser.add_argument("--nodes", type=positive, help="instead of launch.nodes")
    parser.add_argument("--gpus-per-node", type=index, help="instead of launch.gpus_per_node")


def positive(text: str) -> int:
    """Read a whole number from 1; for ``type=`` of an argument."""
    return at_least(1)(text)


def index(text: str) -> int:
    """Read a whole number from 0; for ``type=`` of an argument."""
    return at_least(0)(text)


def at_least(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from ``least``; for ``type=`` of an argument."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= {least}")
        return int(text)

    return read


def number_from(least: float, *, below: float = math.inf) -> Callable[[str], float]:
    """Return a reader of numbers from ``least`` to less than ``below``; for ``type=``."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < below:
            bound = "" if math.isinf(below) else f" and < {below:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a number >= {least:g}{bound}")
        return value

    return read
