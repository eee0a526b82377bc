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
from pathlib import Path
from megatron_rl.types import Problem
from megatron_rl.verifiers.math import verify_math

golds = json.loads(sys.argv[1])
for line in sys.stdin:
    text = "".join(unit * count for unit, count in json.loads(line)["parts"])
    response = "<think>hm</think>\\boxed{" + text + "}"
    for gold in golds:
        start_s = time.process_time()
        verdict = verify_math(Problem(id="a", text="", answer=gold), response)
        # ru_maxrss would be that of whoever started this process, if that was more.
        status = Path("/proc/self/status").read_text()
        peak_mb = int(status.partition("VmHWM:")[2].split()[0]) // 1024
        found = [verdict.correct, time.process_time() - start_s, peak_mb]
        print(json.dumps(found), flush=True)
"""
KINDS_OF_GOLD = [
    *["0.125", r"\sqrt2+\sqrt3", r"\pi", "x^2+1", r"\sin x", "(3,4)", r"\{1,2\}", "x>2"],
    *[r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "x^2+y^2=1", r"3 \pmod 7", r"\text{cat}"],
]


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def read_hostile() -> list[str]:
    names = ("hostile.jsonl", "hostile_second.jsonl")
    return [line for name in names for line in (CORPORA / name).read_text().splitlines()]


def grade(lines: list[str], golds: list[str], folder: Path) -> list[list]:
    """Return verdict, processor time and peak memory of every answer beside every gold."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", PROBE, json.dumps(golds)],
        input="\n".join(lines),
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "HOME": str(folder), "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=limit_memory,
    )
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    num_graded = len(verdicts) // len(golds)
    stopped_at = lines[num_graded][:200] if num_graded < len(lines) else ""
    assert done.returncode == 0 and num_graded == len(lines), stopped_at
    return verdicts


@pytest.mark.system
def test_hostile_answers_get_verdicts_in_bounded_time_and_memory_and_run_nothing(tmp_path):
    lines = read_hostile()
    assert len(lines) >= 100
    for line, (is_correct, cpu_s, _) in zip(lines, grade(lines, ["7"], tmp_path), strict=True):
        assert not is_correct, line[:200]
        assert cpu_s < 9.0, (cpu_s, line[:200])  # the slowest takes 1.2 s here
    assert not list(tmp_path.iterdir())  # what is executed leaves a file


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_kind_of_gold_lets_hostile_answers_take_long_or_leave_memory_behind(tmp_path):
    lines = read_hostile()
    verdicts = grade(lines, KINDS_OF_GOLD, tmp_path)
    for index, (is_correct, cpu_s, peak_mb) in enumerate(verdicts):
        case = lines[index // len(KINDS_OF_GOLD)][:200], KINDS_OF_GOLD[index % len(KINDS_OF_GOLD)]
        assert not is_correct, case
        assert cpu_s < 9.0, (cpu_s, case)  # the slowest takes 2.7 s here
        assert peak_mb < 300, (peak_mb, case)  # 85 at the end of them all here
