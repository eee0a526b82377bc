"""``megatron-rl gpu-check --rehearse``: every stage runs on the CPU, as it would on a GPU."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_run import SERVE_PYTHON, program

from megatron_rl.programs.gpu_stages.table import STAGES
from megatron_rl.registry import registered_servers
from megatron_rl.run_dir import RunDir

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    out: Path
    exit_code: int
    output: str
    api_keys: frozenset[str]
    survivors: dict[int, str]

    @property
    def results(self) -> dict[str, Any]:
        return json.loads((self.out / "results.json").read_text())

    def figures(self, stage: str) -> dict[str, float]:
        (found,) = [result for result in self.results["stages"] if result["name"] == stage]
        return {figure["name"]: figure["value"] for figure in found["figures"]}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    """The whole rehearsal, watched while it lasts."""
    out = tmp_path_factory.mktemp("check") / "out"
    keys: set[str] = set()
    arguments = ("gpu-check", "--rehearse", "--out", str(out))
    with program(*arguments, "--serving-python", str(SERVE_PYTHON)) as check:
        while check.process.poll() is None:
            for folder in out.glob("servers/*/run"):
                keys |= {info.api_key for info in registered_servers(RunDir(folder)).values()}
            time.sleep(0.1)
        exit_code, output = check.finish(within_s=10)
        survivors = check.processes()
    return Rehearsal(
        out=out,
        exit_code=exit_code,
        output=output,
        api_keys=frozenset(keys),
        survivors=survivors,
    )


def test_every_stage_passes(rehearsal):
    assert rehearsal.exit_code == 0, rehearsal.output
    results = rehearsal.results
    assert {stage["name"]: stage["status"] for stage in results["stages"]} == {
        stage.name: "passed" for stage in STAGES
    }
    assert results["failed"] == []
    assert results["verdict"] == f"{len(STAGES)} passed"
    assert str(rehearsal.out / "results.html") in rehearsal.output


def test_every_figure_is_a_number_and_every_limit_has_a_reason(rehearsal):
    for stage in rehearsal.results["stages"]:
        assert stage["figures"], stage["name"]
        for figure in stage["figures"]:
            assert isinstance(figure["value"], float | int) and math.isfinite(figure["value"])
            has_limit = figure["at_least"] is not None or figure["at_most"] is not None
            assert has_limit == bool(figure["reason"])


def test_the_figures_are_those_of_work_that_was_done(rehearsal):
    layers = rehearsal.figures("layers")
    # On a CPU our layers are torch's, so both are off by the same from float32, and are off.
    ours = layers["log-probs, mean error of our layers"]
    assert 1e-4 < ours == layers["log-probs, mean error of torch's in bf16"]
    fp8 = rehearsal.figures("fp8")
    # Weights of 4 bits are farther off than bf16.
    assert fp8["rounded weights: log-probs, mean difference from bf16"] > ours
    parity = rehearsal.figures("parity-eager")
    assert parity["tokens compared"] > 1000
    assert parity["as the server loaded the weights: mean difference"] > 0
    load = rehearsal.figures("load")
    assert load["updates in flight"] == 2 and load["completions of several versions"] > 0
    assert rehearsal.figures("generation")["8 at a time"] > 10
    assert rehearsal.figures("all-reduce")["ranks"] == 2
    assert rehearsal.figures("nodes")["nodes"] == 2
    assert "tp 2, sequence parallel: loss, relative difference" in rehearsal.figures("layouts")
    assert rehearsal.figures("memory")["held over estimated"] == pytest.approx(1, abs=0.02)
    assert rehearsal.figures("demo")["policy versions"] == 3
    for speed in ("speed-bf16", "speed-fp8"):
        assert rehearsal.figures(speed)["tokens"] > 100


def test_the_twin_of_what_only_a_gpu_has_is_named(rehearsal):
    notes = {stage["name"]: stage["notes"] for stage in rehearsal.results["stages"]}
    for name in ("all-reduce", "layers", "fp8", "parity-graphs", "broadcast", "demo", "nodes"):
        assert any(note.startswith("CPU twin") for note in notes[name]), name


def test_versions_and_machine_are_there_to_be_sent(rehearsal):
    results = rehearsal.results
    assert results["is_rehearsal"] is True
    assert results["versions"]["torch"] and results["versions"]["sglang"]
    assert results["machine"]["cores"] >= 1
    assert results["command"].startswith("megatron-rl gpu-check --rehearse")
    page = (rehearsal.out / "results.html").read_text()
    assert all(f"<b>{stage.name}</b>" in page for stage in STAGES)


def test_no_key_is_left_behind_and_no_process(rehearsal):
    assert rehearsal.api_keys
    files = [path for path in rehearsal.out.rglob("*") if path.is_file()]
    for key in rehearsal.api_keys:
        assert key not in rehearsal.output
        assert [path for path in files if key.encode() in path.read_bytes()] == []
    assert rehearsal.survivors == {}
