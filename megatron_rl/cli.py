"""``megatron-rl COMMAND``: parse, validate, then import the program and run it.

Exit codes: 0 done; 1 failed; 2 the configuration, the data or the model is wrong; 10 to 13 a
program of ``train`` failed (serve, rollout, learn, sft); 75 interrupted, run again to resume
(EX_TEMPFAIL, which Slurm scripts requeue on); 130 interrupted by Ctrl-C.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
    options = _parser().parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="megatron-rl",
        description="Reinforcement learning of language models with Megatron-Core and SGLang.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (summary, run, add_arguments) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(run=run)
        add_arguments(command)
    return parser


def _run_program(options: argparse.Namespace) -> int:
    from megatron_rl.config import load_config

    config = load_config(options.config, options.overrides)
    if options.dry_run:
        print(config.model_dump_json(indent=1))
        return 0
    return _program(options.command)(config, options)


def _run_report(options: argparse.Namespace) -> int:
    from megatron_rl.config import read_resolved
    from megatron_rl.run_dir import RunDir

    config = read_resolved(RunDir(options.run_dir).config)
    # The folder may have been moved or copied since the run.
    config = config.model_copy(update={"run_dir": options.run_dir.absolute()})
    return _program(options.command)(config, options)


def _run_doctor(options: argparse.Namespace) -> int:
    from megatron_rl.config import load_config

    config = None if options.config is None else load_config(options.config)
    program = options.command
    if options.node is not None:
        program = "slurm_job.node_check"
    elif options.all_reduce:
        program = "slurm_job.all_reduce"
    return _program(program)(config, options)


def _run_grading(options: argparse.Namespace) -> int:
    from megatron_rl.config import JudgingConfig, load_judging

    config = JudgingConfig() if options.config is None else load_judging(options.config)
    return _program(options.command)(config, options)


def _run_status(options: argparse.Namespace) -> int:
    return _program(options.command)(None, options)


def _run_schema(options: argparse.Namespace) -> int:
    import json

    from megatron_rl.config import json_schema

    print(json.dumps(json_schema(), indent=1))
    return 0


def _program(name: str) -> "Callable[[Any, argparse.Namespace], int]":
    """Import a program's main; only now, since that may take seconds and a GPU."""
    from megatron_rl.process_lifetime import STEP_VARIABLE, become_step
    from megatron_rl.programs.processes.logs import start_logging

    start_logging()
    if STEP_VARIABLE in os.environ:
        become_step(hears_late=name in ("learn", "sft"))
    try:
        return importlib.import_module(f"megatron_rl.programs.{name}").main
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "megatron_rl"):
            raise
        raise MegatronRLError(
            f"{name} needs the package {package}, which is not installed; see megatron-rl doctor"
        ) from error


def _add_config(parser: argparse.ArgumentParser) -> None:
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


def _add_job(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--only", choices=["sft"], help="the cold start alone")


def _add_learn(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--replay", action="store_true", help="train on recorded batches, without generators"
    )


def _add_rollout(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--standalone", action="store_true", help="generate without waiting for a learner"
    )
    parser.add_argument("--num-batches", type=_positive, metavar="N", help="stop after N batches")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument(
        "--index", type=_index, default=0, metavar="I", help="which server of the run this is"
    )
    parser.add_argument(
        "--await-weights",
        action="store_true",
        help="start on placeholder weights, since a learner publishes before any request comes",
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--problems", type=Path, metavar="FILE", help="instead of data.evaluation")
    parser.add_argument(
        "--num-samples", type=_positive, metavar="K", help="instead of evaluation.num_samples"
    )
    parser.add_argument("--model", type=Path, metavar="HF_DIR", help="instead of the run's model")


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="the run's folder")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", type=Path, nargs="?", help="look at the serving interpreter this file names"
    )
    # Steps of a Slurm job's preflight; people have no use for them.
    parser.add_argument("--node", metavar="JSON", help=argparse.SUPPRESS)
    parser.add_argument("--all-reduce", action="store_true", help=argparse.SUPPRESS)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="responses to grade")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="VERDICTS.jsonl", help="where verdicts go"
    )
    _add_grading(parser)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8700",
        metavar="HOST:PORT",
        help="address to bind (default: %(default)s); another than this machine's own needs a key",
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="holds the API key")
    _add_grading(parser)


def _add_grading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="verifier processes (default: judge.num_workers of --config, else one per core)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="RUN.toml",
        help="run configuration; only its sections judge and reward are read",
    )


def _add_plan(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--nodes", type=_positive, help="instead of launch.nodes")
    parser.add_argument("--gpus-per-node", type=_index, help="instead of launch.gpus_per_node")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="RUN_DIR", help="the run's folder, or its Slurm job's id")


def _add_nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _positive(text: str) -> int:
    return _whole_number(text, at_least=1)


def _index(text: str) -> int:
    return _whole_number(text, at_least=0)


def _whole_number(text: str, *, at_least: int) -> int:
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= {at_least}")
    return int(text)


def _complain(error: MegatronRLError, code: int) -> int:
    print(f"megatron-rl: error: {error}", file=sys.stderr)
    return code


_COMMANDS: dict[
    str,
    tuple[
        str,
        Callable[[argparse.Namespace], int],
        Callable[[argparse.ArgumentParser], None],
    ],
] = {
    "train": ("run everything on this machine", _run_program, _add_config),
    "job": ("run everything on the nodes of this Slurm job", _run_program, _add_job),
    "learn": ("run the learner", _run_program, _add_learn),
    "rollout": ("run the rollout program", _run_program, _add_rollout),
    "serve": ("run one generation server", _run_program, _add_serve),
    "sft": ("train on demonstrations (cold start)", _run_program, _add_config),
    "evaluate": ("score a model on held-out problems", _run_program, _add_evaluate),
    "verify": ("grade a file of responses as training would", _run_grading, _add_verify),
    "judge": ("lend verifier processes to other machines", _run_grading, _add_judge),
    "plan": ("say what a Slurm job would run where", _run_program, _add_plan),
    "status": ("say what a Slurm job does now", _run_status, _add_status),
    "schema": ("print the JSON schema of the configuration", _run_schema, _add_nothing),
    "report": ("write the report of a run folder", _run_report, _add_report),
    "doctor": ("say what is installed and what is missing", _run_doctor, _add_doctor),
}


if __name__ == "__main__":
    sys.exit(main())
