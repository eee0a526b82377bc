"""Keep the problems that are neither too easy nor too hard for a model, nor wrongly labelled.

tools/filter_difficulty.py CONFIG --problems ALL.jsonl --out KEPT.jsonl [--model HF_DIR]
    [--reserve TOO_HARD.jsonl] [--grades GRADES.jsonl] [--set difficulty.max_pass_rate=0.9]

Samples every problem (section [difficulty] of the configuration) through the run's servers, or
through one started for the time when there are none or --model is given. Grades are appended to
GRADES.jsonl (default: OUT.grades.jsonl): stopped, it goes on where it was; with other thresholds it
samples nothing again. ALL is read with the columns of [data.columns], and KEPT is JSON lines with
the same columns: lines of JSON files as they are, of tables the columns in use. TOO_HARD gets the
problems that are too hard for the model, which a run with [data.lifecycle] may take as data.reserve
and train on once the others are solved; it is empty if there are none. The recipe filters
twice: first with the model that training starts from; then the whole original file again with the
model trained on what was left, because a weak model cannot tell hard problems from impossible ones.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_rl.cli import exit_code_of
from megatron_rl.cli.arguments import add_config
from megatron_rl.programs.processes.logs import start_logging


def main(argv: Sequence[str] | None = None) -> int:
    """Filter; exit codes as those of megatron-rl."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add_config(parser)
    add("--problems", type=Path, required=True, metavar="FILE", help="problems to filter")
    add("--out", type=Path, required=True, metavar="FILE", help="where kept problems go")
    add("--reserve", type=Path, metavar="FILE", help="where problems that are too hard go")
    add("--grades", type=Path, metavar="FILE", help="what each problem's samples came to")
    add("--model", type=Path, metavar="HF_DIR", help="instead of the run's model")
    options = parser.parse_args(argv)
    if options.grades is None:
        options.grades = options.out.with_name(options.out.name + ".grades.jsonl")
    return exit_code_of(lambda: _filter(options))


def _filter(options: argparse.Namespace) -> int:
    from megatron_rl.config import load_config

    config = load_config(options.config, options.overrides)
    start_logging()
    program = importlib.import_module("megatron_rl.programs.offline.filter_difficulty")
    return int(program.main(config, options))


if __name__ == "__main__":
    sys.exit(main())
