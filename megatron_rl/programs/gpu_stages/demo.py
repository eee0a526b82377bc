"""Demo of the repository, trained by ``megatron-rl train``: cold start, RL and evaluations."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from megatron_rl.errors import ProgramError
from megatron_rl.programs.gpu_stages.sizes import sizes_of
from megatron_rl.programs.stage_runs.process import SINGLE_RANK
from megatron_rl.programs.stage_runs.result import Figure, Limit, Outcome
from megatron_rl.programs.stage_runs.stage import Place
from megatron_rl.run_dir import RunDir, publish_atomically

_DEMO = Path("examples/demo")
_FILES = ("train.jsonl", "evaluation.jsonl", "sft.jsonl")
_SOLVED = Limit(
    at_least=0.6,
    reason="on a CPU, 30 steps in bf16 took it from 31 % to 85 %; without learning it stays at 31",
)
_SPANNING = Limit(
    at_least=0.001, reason="some completions must go on while their weights are replaced"
)


def check(place: Place) -> Outcome:
    """Make the demo's data, train, and read the summary of the run."""
    if not (_DEMO / "run.toml").exists():
        return Outcome(skipped=f"{_DEMO} is not here; run gpu-check in the repository's root")
    sizes, run_dir = sizes_of(place), RunDir(place.folder / "run")
    data = place.folder / "data"
    _run("make_data.py", [sys.executable, str(_DEMO / "make_data.py"), str(data)])
    if sizes.demo_lines is not None:
        for name in _FILES:
            _cut(data / name, sizes.demo_lines)
    settings = [
        f"run_dir={run_dir.root}",
        f"model.path={data / 'model'}",
        *(f"{key}={data / name}" for key, name in _keys().items()),
        f"generators.python={place.serving_python}",
        *sizes.demo,
    ]
    overrides = [word for setting in settings for word in ("--set", setting)]
    config = str(_DEMO / "run.toml")
    _run("train", [sys.executable, "-m", "megatron_rl", "train", config, *overrides])
    summary = json.loads(run_dir.summary.read_text())
    return Outcome(figures=_figures(place, summary), notes=_notes(place, run_dir))


def _keys() -> dict[str, str]:
    return dict(zip(("data.train", "data.evaluation", "sft.data"), _FILES, strict=True))


def _run(name: str, command: list[str]) -> None:
    """Run a program whose output goes to the stage's log."""
    # The programs of a run choose their own ranks.
    environment = {name: value for name, value in os.environ.items() if name not in SINGLE_RANK}
    code = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode
    if code:
        raise ProgramError("gpu-check", f"{name} ended with exit code {code}")


def _cut(path: Path, num_lines: int) -> None:
    lines = path.read_text().splitlines(keepends=True)[:num_lines]
    publish_atomically(path, "".join(lines).encode())


def _figures(place: Place, summary: dict[str, Any]) -> list[Figure]:
    # A rehearsal has too few steps to learn anything.
    is_short = place.is_rehearsal
    versions = summary["steps"] + 1
    return [
        Figure(name="solved before", value=summary["pass@1/before"]),
        Figure(
            name="solved after",
            value=summary["pass@1/after"],
            limit=None if is_short else _SOLVED,
        ),
        Figure(
            name="policy versions",
            value=summary["policy_versions"],
            limit=Limit(
                at_least=versions, at_most=versions, reason="one for each step, and the first"
            ),
        ),
        Figure(
            name="completions of several versions",
            value=summary["rollout/spanning_fraction"],
            limit=None if is_short else _SPANNING,
        ),
        Figure(name="generated", value=summary["generation/tokens_per_s"], unit="tokens/s"),
        Figure(name="learnt", value=summary["learner/tokens_per_s"], unit="tokens/s"),
    ]


def _notes(place: Place, run_dir: RunDir) -> list[str]:
    notes = [f"its report is {run_dir.report}"]
    if place.is_rehearsal:
        notes.append("CPU twin: two steps on some of the data, without the cold start")
    return notes
