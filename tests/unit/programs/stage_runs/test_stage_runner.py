"""Stages that pass, fail, crash, hang or lose their server: each is named, and the others go on.

The processes are real, and start as those of gpu-check do.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_rl.programs.stage_runs.result import StageResult
from megatron_rl.programs.stage_runs.runner import StageRunner
from megatron_rl.programs.stage_runs.stage import Place, Stage
from tests.unit.programs.stage_runs.some_stages import HERE

ROOT = Path(__file__).resolve().parents[4]
pytestmark = pytest.mark.lengthy
PLENTY_S = 120.0
"""A busy machine is no failure."""


def stage(function: str, *, name: str | None = None, **fields) -> Stage:
    return Stage(
        name=function if name is None else name,
        shows=f"what {function} does",
        work=f"{HERE}:{function}",
        **({"limit_s": PLENTY_S} | fields),
    )


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    monkeypatch.chdir(ROOT)
    # As in a batch job, whose tasks are no ranks of a stage.
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    return Place(
        folder=tmp_path,
        shared=tmp_path / "models",
        is_rehearsal=True,
        gpus=(),
        serving_python=Path(sys.executable),
    )


def run(place: Place, *stages: Stage, keep: str = "keep") -> dict[str, StageResult]:
    with StageRunner(place.folder, place, keep=f"{HERE}:{keep}") as runner:
        return {stage.name: runner.run(stage) for stage in stages}


def is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


def test_each_end_is_told_from_the_others_and_none_ends_the_run(place):
    found = run(
        place,
        *(stage(name) for name in ("passes", "exceeds", "is_nan", "skips", "raises", "refuses")),
        stage("crashes"),
        stage("passes", name="passes_again"),
    )
    assert {name: result.status for name, result in found.items()} == {
        "passes": "passed",
        "exceeds": "failed",
        "is_nan": "failed",
        "skips": "skipped",
        "raises": "failed",
        "refuses": "failed",
        "crashes": "failed",
        "passes_again": "passed",
    }
    assert found["passes"].notes == ["rank 0 of 1"]
    assert found["passes"].figures[0].value == 1.0
    assert found["exceeds"].reason == "error 3, but must be at most 2"
    assert found["is_nan"].reason == "error nan, but must be at most 2"
    assert found["skips"].reason == "it needs what is not here"
    assert found["raises"].reason == "it ended with exit code 1 and left no figures"
    assert "about to divide" in (place.folder / "logs/raises.log").read_text()
    assert "ZeroDivisionError: by nothing" in found["raises"].tail
    assert "some.key (1) must be 2" in found["refuses"].tail
    assert found["crashes"].reason == "SIGSEGV killed it"
    assert "Fatal Python error" in found["crashes"].tail  # with the stack of where
    assert found["raises"].logs == ["logs/raises.log"]
    assert found["passes"].tail == ""


def test_a_stage_whose_time_is_up_is_ended_with_all_it_started_and_its_log_says_where(place):
    started = time.monotonic()
    found = run(place, stage("hangs", limit_s=5.0), stage("passes"))
    assert time.monotonic() - started < PLENTY_S
    result = found["hangs"]
    assert (result.status, result.reason) == ("timed out", "its time was up: 5 s")
    assert "waiting for ever" in result.tail and "in hangs" in result.tail
    wait_until_gone(*map(int, (place.folder / "stages/hangs/pids").read_text().split()))
    assert found["passes"].status == "passed"


def test_a_stage_without_its_gpus_is_skipped_unless_it_is_rehearsed(place):
    two = stage("passes", num_gpus=2)
    with_one = replace(place, is_rehearsal=False, gpus=("0",))
    result = run(with_one, two)["passes"]
    assert (result.status, result.reason) == ("skipped", "it needs 2 GPUs, and 1 can be seen")
    assert run(place, two)["passes"].status == "passed"


def test_neighbours_share_a_server_until_one_of_them_fails_or_none_needs_it(place):
    asks = [stage("asks", name=name, server="one") for name in ("first", "second", "third")]
    found = run(
        place,
        asks[0],
        asks[1],
        stage("asks_and_crashes", server="one"),
        asks[2],
        stage("passes"),
        stage("asks", name="fourth", server="one"),
    )
    pids = {name: int(result.figures[0].value) for name, result in found.items() if result.figures}
    assert pids["first"] == pids["second"]
    # One that was left by a stage that crashed may be in any state.
    assert len({pids["second"], pids["third"], pids["fourth"]}) == 3
    assert found["asks_and_crashes"].status == "failed"
    wait_until_gone(pids["first"], pids["third"], pids["fourth"])


def test_on_gpus_servers_of_two_names_are_two(place):
    one_gpu = replace(place, is_rehearsal=False, gpus=("0",))
    found = run(
        one_gpu,
        stage("asks", name="eager", server="eager"),
        stage("asks", name="graphs", server="graphs"),
    )
    assert found["eager"].figures[0].value != found["graphs"].figures[0].value


def test_a_server_that_does_not_start_fails_its_stage_with_its_own_log(place):
    found = run(
        place,
        stage("asks", server="one"),
        stage("passes"),
        stage("asks", name="asks_again", server="one"),
        keep="keep_dies",
    )
    result = found["asks"]
    assert result.status == "failed"
    assert result.reason == 'the server "shared" ended with exit code 2 while starting'
    assert "no room for a model; make some" in result.tail
    assert result.logs == ["servers/1_shared/keeper.log"]
    # A server that hangs while it starts would take the time of every stage that needs it.
    assert found["asks_again"].reason.endswith("for an earlier stage, and it was not tried again")
    assert found["asks_again"].logs == result.logs
    assert found["passes"].status == "passed"


def test_a_rehearsal_hides_the_gpus_of_its_machine(place, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    from megatron_rl.programs.stage_runs.process import hidden_gpus

    assert hidden_gpus(place) == {"CUDA_VISIBLE_DEVICES": ""}
    assert hidden_gpus(replace(place, is_rehearsal=False, gpus=("0",))) == {}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
