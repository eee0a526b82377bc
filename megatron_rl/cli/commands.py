"""Commands of megatron-rl: what each is called, takes and runs."""

import argparse
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_rl.cli.arguments import add_config, add_grading, index, positive
from megatron_rl.errors import MegatronRLError


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
    from megatron_rl.config.reference import markdown_reference

    schema = json_schema()
    if options.markdown:
        print(markdown_reference(schema), end="")
    else:
        print(json.dumps(schema, indent=1))
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


def _add_job(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--only", choices=["sft"], help="the cold start alone")


def _add_learn(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--replay", action="store_true", help="train on recorded batches, without generators"
    )


def _add_rollout(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--standalone", action="store_true", help="generate without waiting for a learner"
    )
    parser.add_argument("--num-batches", type=positive, metavar="N", help="stop after N batches")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--index", type=index, default=0, metavar="I", help="which server of the run this is"
    )
    parser.add_argument(
        "--await-weights",
        action="store_true",
        help="start on placeholder weights, since a learner publishes before any request comes",
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--problems", type=Path, metavar="FILE", help="instead of data.evaluation")
    parser.add_argument(
        "--num-samples", type=positive, metavar="K", help="instead of evaluation.num_samples"
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
    add_grading(parser)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        default="127.0.0.1:8700",
        metavar="HOST:PORT",
        help="address to bind (default: %(default)s); another than this machine's own needs a key",
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="holds the API key")
    add_grading(parser)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--nodes", type=positive, help="instead of launch.nodes")
    parser.add_argument("--gpus-per-node", type=index, help="instead of launch.gpus_per_node")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="RUN_DIR", help="the run's folder, or its Slurm job's id")


def _add_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--markdown", action="store_true", help="for people: what docs/configuration.md holds"
    )


COMMANDS: dict[
    str,
    tuple[
        str,
        Callable[[argparse.Namespace], int],
        Callable[[argparse.ArgumentParser], None],
    ],
] = {
    "train": ("run everything on this machine", _run_program, add_config),
    "job": ("run everything on the nodes of this Slurm job", _run_program, _add_job),
    "learn": ("run the learner", _run_program, _add_learn),
    "rollout": ("run the rollout program", _run_program, _add_rollout),
    "serve": ("run one generation server", _run_program, _add_serve),
    "sft": ("train on demonstrations (cold start)", _run_program, add_config),
    "evaluate": ("score a model on held-out problems", _run_program, _add_evaluate),
    "verify": ("grade a file of responses as training would", _run_grading, _add_verify),
    "judge": ("lend verifier processes to other machines", _run_grading, _add_judge),
    "plan": ("say what a Slurm job would run where", _run_program, _add_plan),
    "status": ("say what a Slurm job does now", _run_status, _add_status),
    "schema": ("print every setting, as a JSON schema", _run_schema, _add_schema),
    "report": ("write the report of a run folder", _run_report, _add_report),
    "doctor": ("say what is installed and what is missing", _run_doctor, _add_doctor),
}
