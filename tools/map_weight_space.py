"""Map mean reward and mean length over the two directions in which a run's weights moved.

tools/map_weight_space.py CONFIG --out MAP_DIR [--problems FILE] [--limit 512] [--samples 16]
    [--grid 5] [--margin 0.25]

The directions are the principal components of the run's checkpoints (keep several with
checkpoint.keep_every). At every point of a grid around the trajectory a server is given the weights
w* + a1 c1 + a2 c2 and answers the same problems. MAP_DIR/weight_space.html shows the maps, the
trajectory, and whether reward grows with the logarithm of length (arXiv:2506.10910, section 7.1).
Points are kept as they are measured: stopped, the same command goes on; a larger grid with points
in common measures only what is new.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_rl.cli import exit_code_of
from megatron_rl.cli.arguments import add_config, at_least, positive
from megatron_rl.programs.processes.logs import start_logging


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the map; exit codes as those of megatron-rl."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_config(parser)
    add("--out", type=Path, required=True, metavar="DIR", help="where directions and map go")
    add("--problems", type=Path, metavar="FILE", help="what is asked; data.evaluation by default")
    add("--limit", type=positive, default=512, help="first problems asked (%(default)s)")
    add(
        *("--samples", "--num-samples"),
        dest="num_samples",
        type=positive,
        default=16,
        help="completions per problem and point (%(default)s)",
    )
    add("--grid", type=at_least(2), default=5, help="points along each direction (%(default)s)")
    add("--margin", type=float, default=0.25, help="beyond the trajectory, as part of its extent")
    options = parser.parse_args(argv)
    return exit_code_of(lambda: _map(options))


def _map(options: argparse.Namespace) -> int:
    from megatron_rl.config import load_config

    config = load_config(options.config, options.overrides)
    start_logging()
    program = importlib.import_module("megatron_rl.programs.offline.map_weight_space")
    return int(program.main(config, options))


if __name__ == "__main__":
    sys.exit(main())
