"""``megatron-rl gpu-check``: try everything on the GPUs of this machine, stage by stage.

Each stage runs in a process of its own; one that fails, crashes or hangs is named, and the others
go on. ``results.json`` and ``results.html`` are written anew after each.
"""

import argparse
import datetime
import difflib
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_rl.config import GeneratorsConfig
from megatron_rl.errors import ConfigError
from megatron_rl.programs.builders.hardware import visible_gpus
from megatron_rl.programs.gpu_stages.table import KEEP_SERVER, STAGES
from megatron_rl.programs.stage_runs.machine import machine_facts, version_facts
from megatron_rl.programs.stage_runs.page import write_page
from megatron_rl.programs.stage_runs.process import be_stage
from megatron_rl.programs.stage_runs.report import Report, write_report_json
from megatron_rl.programs.stage_runs.result import BAD, StageResult
from megatron_rl.programs.stage_runs.runner import StageRunner
from megatron_rl.programs.stage_runs.stage import Place, Stage

_REHEARSAL_LIMIT_S = 600.0
"""Of every stage on a CPU: a busy machine is no failure."""
_EXIT_FAILED = 1


def main(_: None, options: argparse.Namespace) -> int:
    """Run the stages that are asked for; return 1 when one did not pass, else 0.

    Raises:
        ConfigError: there is no GPU, a stage is not known, or the folder is in use.
    """
    if options.stage is not None:
        return be_stage(options.stage, options.into)
    if options.list:
        print("\n".join(_line(stage) for stage in STAGES))
        return 0
    stages = chosen_stages(STAGES, only=options.only, skip=options.skip)
    gpus = () if options.rehearse else tuple(visible_gpus(os.environ))
    if not gpus and not options.rehearse:
        raise ConfigError(
            "gpu-check finds no GPU on this machine (nvidia-smi -L lists none, or "
            "CUDA_VISIBLE_DEVICES hides them); add --rehearse to try every stage on the CPU"
        )
    root = _new_folder(options.out)
    place = Place(
        folder=root,
        shared=root / "models",
        is_rehearsal=options.rehearse,
        gpus=gpus,
        serving_python=_serving_python(options.serving_python),
    )
    try:
        results = _run(stages, root, place)
    finally:
        # What is left is small enough to be sent.
        shutil.rmtree(place.shared, ignore_errors=True)
    failed = [result.name for result in results if result.status in BAD]
    print(f"results: {root / 'results.html'} and results.json beside it")
    if failed:
        print(f"not passed: {', '.join(failed)}")
    return _EXIT_FAILED if failed else 0


def chosen_stages(
    stages: Sequence[Stage], *, only: Sequence[str] | None, skip: Sequence[str] | None
) -> list[Stage]:
    """Return the stages that are asked for, in their order.

    Raises:
        ConfigError: there is no stage of a name, or none is left.
    """
    names = [stage.name for stage in stages]
    for flag, wanted in (("--only", only or ()), ("--skip", skip or ())):
        for name in wanted:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f"; did you mean {close[0]}?" if close else "; --list names them"
                raise ConfigError(f"{flag} {name}: there is no such stage{hint}")
    chosen = [
        stage
        for stage in stages
        if (not only or stage.name in only) and (not skip or stage.name not in skip)
    ]
    if not chosen:
        raise ConfigError("--only and --skip leave no stage; name fewer stages to skip")
    return chosen


def _run(stages: Sequence[Stage], root: Path, place: Place) -> list[StageResult]:
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    machine, versions = machine_facts(), version_facts(place.serving_python)
    results: list[StageResult] = []
    limit_s = _REHEARSAL_LIMIT_S if place.is_rehearsal else None
    with StageRunner(root, place, keep=KEEP_SERVER, limit_s=limit_s) as runner:
        for number, stage in enumerate(stages, start=1):
            print(f"{number}/{len(stages)} {stage.name}: {stage.shows}", flush=True)
            results.append(runner.run(stage))
            _show(results[-1])
            report = Report(
                title="gpu-check, rehearsed on the CPU" if place.is_rehearsal else "gpu-check",
                command=shlex.join(["megatron-rl", *sys.argv[1:]]),
                date=started,
                is_rehearsal=place.is_rehearsal,
                machine=machine,
                versions=versions,
                num_planned=len(stages),
                results=results,
            )
            write_report_json(root / "results.json", report)
            write_page(root / "results.html", report)
    print(report.verdict)
    return results


def _show(result: StageResult) -> None:
    print(f"    {result.status} in {result.seconds:.0f} s", flush=True)
    if result.reason:
        print(f"    {result.reason}", flush=True)
    if result.tail:
        print("\n".join(f"    | {line}" for line in result.tail.splitlines()), flush=True)
    if result.logs and result.tail:
        print(f"    logs: {', '.join(result.logs)}", flush=True)


def _line(stage: Stage) -> str:
    needs = [f"{stage.num_gpus} GPUs"] if stage.num_gpus > 1 else []
    needs += [f"a server {stage.server}"] if stage.server is not None else []
    needed = f" (needs {' and '.join(needs)})" if needs else ""
    return f"{stage.name:14}{stage.limit_s:4.0f} s  {stage.shows}{needed}"


def _new_folder(out: Path | None) -> Path:
    if out is None:
        now = datetime.datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
        out = Path("runs") / f"gpu-check-{now}"
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out} is not empty; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    return out.absolute()


def _serving_python(given: Path | None) -> Path:
    return (GeneratorsConfig().python if given is None else given).absolute()
