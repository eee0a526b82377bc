"""Answers that mean harm: each gets a verdict, soon, in bounded memory, and is not executed."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

CORPORA = Path(__file__).parents[1] / "corpora"
ROOT = Path(__file__).parents[2]
MEMORY_BYTES = 2 << 30
PROBE = r"""
import json, sys, time
from megatron_rl.types import Problem
from megatron_rl.verifiers.math import verify_math

for line in sys.stdin:
    text = "".join(unit * count for unit, count in json.loads(line)["parts"])
    response = "<think>hm</think>\\boxed{" + text + "}"
    start_s = time.process_time()
    verdict = verify_math(Problem(id="a", text="", answer="7"), response)
    print(json.dumps([verdict.correct, time.process_time() - start_s]), flush=True)
"""


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


@pytest.mark.system
def test_hostile_answers_get_verdicts_in_bounded_time_and_memory_and_run_nothing(tmp_path):
    lines = [
        line
        for name in ("hostile.jsonl", "hostile_second.jsonl")
        for line in (CORPORA / name).read_text().splitlines()
    ]
    assert len(lines) >= 100
    done = subprocess.run(
        [sys.executable, "-B", "-c", PROBE],
        input="\n".join(lines),
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=limit_memory,
    )
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    stopped_at = lines[len(verdicts)][:200] if len(verdicts) < len(lines) else ""
    assert done.returncode == 0 and len(verdicts) == len(lines), stopped_at
    for line, (is_correct, cpu_s) in zip(lines, verdicts, strict=True):
        assert not is_correct, line[:200]
        assert cpu_s < 9.0, (cpu_s, line[:200])  # the slowest takes 0.9 s here
    assert not list(tmp_path.iterdir())  # what is executed leaves a file
