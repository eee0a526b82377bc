"""Command line ``megatron-rl COMMAND``: parse, validate, then import the program and run it.

Exit codes: 0 done; 1 failed; 2 the configuration, the data or the model is wrong; 10 to 13 a
program of ``train`` failed (serve, rollout, learn, sft); 75 interrupted, run again to resume
(EX_TEMPFAIL, which Slurm scripts requeue on); 130 interrupted by Ctrl-C.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from megatron_rl.cli.commands import COMMANDS
from megatron_rl.errors import (
    ConfigError,
    DataError,
    Interrupted,
    MegatronRLError,
    ModelError,
    ProgramError,
)

EXIT_FAILED, EXIT_INVALID, EXIT_RESUME, EXIT_CTRL_C = 1, 2, 75, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = command_parser().parse_args(argv)
    return exit_code_of(lambda: options.run(options))


def exit_code_of(program: Callable[[], int]) -> int:
    """Run ``program``; say in one line what went wrong, unless it is our own bug."""
    try:
        return program()
    except Interrupted as error:
        return _complain(error, EXIT_RESUME)
    except (ConfigError, DataError, ModelError) as error:
        return _complain(error, EXIT_INVALID)
    except ProgramError as error:
        return _complain(error, error.exit_code)
    except MegatronRLError as error:
        return _complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_CTRL_C


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="megatron-rl",
        description="Reinforcement learning of language models with Megatron-Core and SGLang.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        # Without "help" argparse does not list it.
        listed = {} if command.summary is None else {"help": command.summary}
        subparser = commands.add_parser(name, description=command.summary, **listed)
        subparser.set_defaults(run=command.run)
        command.add_arguments(subparser)
    return parser


def _complain(error: MegatronRLError, code: int) -> int:
    print(f"megatron-rl: error: {error}", file=sys.stderr)
    return code
