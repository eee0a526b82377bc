"""Commands of megatron-rl: name, arguments, and the program each runs."""

import argparse
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_rl.cli.arguments import (
    add_config,
    add_grading,
    add_nodes,
    add_overrides,
    index,
    number_from,
    positive,
)
from megatron_rl.errors import MegatronRLError


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its line in the help, its program, how that is run, and what it takes."""

    summary: str | None
    """None hides it from the help."""
    program: str | None
    """Module of ``programs`` whose ``main`` it runs; None runs none."""
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None]


def _run_program(options: argparse.Namespace) -> int:
    from megatron_rl.config import load_config, with_filled_sets

    config = load_config(options.config, options.overrides)
    if options.dry_run:
        print(with_filled_sets(config).model_dump_json(indent=1))
        return 0
    return _program(options)(config, options)


def _run_on_folder(options: argparse.Namespace) -> int:
    from megatron_rl.config import read_resolved
    from megatron_rl.run_dir import RunDir

    config = read_resolved(RunDir(options.run_dir).config)
    # The folder may have been moved or copied since the run.
    config = config.model_copy(update={"run_dir": options.run_dir.absolute()})
    return _program(options)(config, options)


def _run_doctor(options: argparse.Namespace) -> int:
    from megatron_rl.config import load_config

    config = None if options.config is None else load_config(options.config)
    return _program(options)(config, options)


def _run_grading(options: argparse.Namespace) -> int:
    from megatron_rl.config import JudgingConfig, load_judging

    config = JudgingConfig() if options.config is None else load_judging(options.config)
    return _program(options)(config, options)


def _run_alone(options: argparse.Namespace) -> int:
    return _program(options)(None, options)


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


def _program(options: argparse.Namespace) -> "Callable[[Any, argparse.Namespace], int]":
    """Import a command's main; only now, since that may take seconds and a GPU."""
    from megatron_rl.process_lifetime import STEP_VARIABLE, become_step
    from megatron_rl.programs.processes.logs import start_logging

    start_logging()
    if STEP_VARIABLE in os.environ:
        become_step(hears_late=options.command in ("learn", "sft"))
    program = COMMANDS[options.command].program
    try:
        return importlib.import_module(f"megatron_rl.programs.{program}").main
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "megatron_rl"):
            raise
        raise MegatronRLError(
            f"{options.command} needs the package {package}, which is not installed; "
            "see megatron-rl doctor"
        ) from error


def _add_run(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="validate, print the resolved configuration, exit"
    )


def _add_launcher(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--only", choices=["sft"], help="the cold start alone")


def _add_ablate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("definition", type=Path, metavar="FILE.toml", help="base configuration, seeds, variants")
    add_overrides(parser)
    add("--only", nargs="+", metavar="VARIANT[/SEED]", help="run these alone")
    what = parser.add_mutually_exclusive_group()
    add = what.add_argument
    add("--list", action="store_true", help="say what there is to run, and how far it is")
    add("--dry-run", action="store_true", help="check every run as train would, start none")
    add("--report-only", action="store_true", help="write the report of what there is, run nothing")
    add("--task", type=index, metavar="INDEX", help="become this run: a task of a Slurm array")
    add(
        "--start",
        type=index,
        nargs="?",
        const=0,
        metavar="INDEX",
        help="become the training of this start, the first one when not given",
    )


def _add_learn(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--replay", action="store_true", help="train on recorded batches, without generators"
    )


def _add_rollout(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--standalone", action="store_true", help="generate without waiting for a learner"
    )
    parser.add_argument("--num-batches", type=positive, metavar="N", help="stop after N batches")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--index", type=index, default=0, metavar="I", help="which server of the run this is"
    )
    parser.add_argument(
        "--await-weights",
        action="store_true",
        help="start on placeholder weights, since a learner publishes before any request comes",
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--problems", type=Path, metavar="FILE", help="instead of the held-out sets of the file"
    )
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="these held-out sets alone")
    parser.add_argument(
        "--num-samples", type=positive, metavar="K", help="instead of that of each set"
    )
    parser.add_argument(
        "--samples",
        type=Path,
        metavar="DIR",
        help="keep the samples there, and go on from those of an interrupted evaluation",
    )
    parser.add_argument("--model", type=Path, metavar="HF_DIR", help="instead of the run's model")


def _add_check(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument(
        "--groups", type=positive, default=4, metavar="N", help="groups to sample (%(default)s)"
    )
    parser.add_argument("--model", type=Path, metavar="HF_DIR", help="instead of the run's model")
    parser.add_argument(
        "--no-learner", action="store_true", help="do not compare log-probs with the learner's"
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="the run's folder")


def _add_traces(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("run_dir", type=Path, metavar="RUN", help="the folder of the teacher's run")
    add(
        "--out",
        type=Path,
        required=True,
        metavar="TRACES.jsonl",
        help="where the pairs go, for sft.data; a manifest goes beside it",
    )
    add("--from-step", type=index, default=0, metavar="N", help="leave out earlier batches")
    add(
        "--min-length-quantile",
        type=number_from(0, below=1),
        default=0.0,
        metavar="Q",
        help="leave out thoughts shorter than this quantile of the run's correct completions",
    )
    add("--per-problem", type=positive, metavar="M", help="most traces of a problem (default: all)")
    add(
        "--upsample",
        type=number_from(1),
        default=1.0,
        metavar="K",
        help="of a problem solved with probability p < 1/2, write min(K, 1 / (2 p)) lines a trace",
    )
    add("--mix", type=Path, metavar="FILE", help="general pairs to mix in")
    add(
        "--share",
        type=number_from(0, below=1),
        metavar="S",
        help="share of the pairs of --mix among all lines (default: 0.1)",
    )
    add("--seed", type=index, default=0, help="of what is drawn (%(default)s)")
    add("--model", type=Path, metavar="HF_DIR", help="where the run's model is, if it has moved")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "config", type=Path, nargs="?", help="look at the serving interpreter this file names"
    )


def _add_gpu_check(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rehearse", action="store_true", help="every stage in small, on the CPU")
    add("--only", nargs="+", metavar="STAGE", help="run these stages alone")
    add("--skip", nargs="+", metavar="STAGE", help="leave these stages out")
    add("--list", action="store_true", help="name the stages with their time limits, and exit")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of results and logs (default: runs/gpu-check-DATE)",
    )
    add(
        "--serving-python",
        type=Path,
        metavar="PYTHON",
        help="interpreter that has sglang (default: .venv-serve/bin/python)",
    )
    # How each stage's process is started; people have no use for it.
    add("--stage", metavar="MODULE:FUNCTION", help=argparse.SUPPRESS)
    add("--into", type=Path, metavar="DIR", help=argparse.SUPPRESS)


def _add_check_node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("check", metavar="JSON", help="what to check, as preflight writes it")


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
    _add_run(parser)
    add_nodes(parser)


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="RUN_DIR", help="the run's folder, or its Slurm job's id")


def _add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="the run's folder; the run may start later")
    parser.add_argument(
        "--port",
        type=index,
        default=8765,
        metavar="PORT",
        help="of the page (default: %(default)s); 0 takes any free one",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to bind (default: %(default)s); another than this machine's own needs a key",
    )
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="holds the key (default: a random one)"
    )
    parser.add_argument(
        "--stacks",
        action="store_true",
        help="print where each process of the run on this machine is, and end",
    )


def _add_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--markdown", action="store_true", help="for people: what docs/configuration.md holds"
    )


COMMANDS = {
    "check": Command(
        "sample a few groups and say whether a run could learn", "check", _run_program, _add_check
    ),
    "train": Command("run everything on this machine", "train", _run_program, _add_launcher),
    "job": Command(
        "run everything on the nodes of this Slurm job", "job", _run_program, _add_launcher
    ),
    "ablate": Command(
        "run variants of a run from one start, and compare them", "ablate", _run_alone, _add_ablate
    ),
    "learn": Command("run the learner", "learn", _run_program, _add_learn),
    "rollout": Command("run the rollout program", "rollout", _run_program, _add_rollout),
    "serve": Command("run one generation server", "serve", _run_program, _add_serve),
    "sft": Command("train on demonstrations (cold start)", "sft", _run_program, _add_run),
    "select": Command(
        "choose the cold start's model by evaluation", "campaign.select", _run_program, _add_run
    ),
    "traces": Command(
        "write a run's correct completions as demonstrations",
        "distillation.collect_traces",
        _run_on_folder,
        _add_traces,
    ),
    "evaluate": Command(
        "score a model on held-out problems", "evaluate", _run_program, _add_evaluate
    ),
    "verify": Command(
        "grade a file of responses as training would", "verify", _run_grading, _add_verify
    ),
    "judge": Command(
        "lend verifier processes to other machines", "judge", _run_grading, _add_judge
    ),
    "plan": Command("say what a Slurm job would run where", "plan", _run_program, _add_plan),
    "status": Command("say what a Slurm job does now", "status", _run_alone, _add_status),
    "schema": Command("print every setting, as a JSON schema", None, _run_schema, _add_schema),
    "report": Command("write the report of a run folder", "report", _run_on_folder, _add_report),
    "watch": Command("serve the report live, to a browser", "watch", _run_alone, _add_watch),
    "doctor": Command(
        "say what is installed and what is missing", "doctor", _run_doctor, _add_doctor
    ),
    "gpu-check": Command(
        "try everything on this machine's GPUs, in minutes",
        "gpu_check",
        _run_alone,
        _add_gpu_check,
    ),
    # Steps of a Slurm job's preflight; people have no use for them.
    "check-node": Command(None, "slurm_job.node_check", _run_alone, _add_check_node),
    "score-batch": Command(None, "checks.batch_scores", _run_program, _add_run),
    "all-reduce": Command(None, "slurm_job.all_reduce", _run_program, _add_run),
}
"""Commands by name, in the order of the help."""
