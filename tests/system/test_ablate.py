"""An ablation of tiny runs: killed in the middle, run again, with a variant that fails."""

import json
from pathlib import Path

import pytest
from run_records import steps_of, wait_for_steps
from tiny_run import SERVE_PYTHON, program, run, wait_for, write_config, write_inputs

from megatron_rl.run_dir import RunDir, read_jsonl

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]
VARIANTS = """
[[variants]]
name = "as_it_is"
[[variants]]
name = "hasty_server"
set = {generators.start_timeout_s = 0.05}
[[variants]]
name = "entropy"
set = {algorithm.entropy_coefficient = 0.01, rollout.n_minibatch = 8}
[[variants]]
name = "sft_alone"
start_of = "as_it_is"
"""


@pytest.fixture(scope="module")
def definition(tmp_path_factory) -> Path:
    inputs = write_inputs(tmp_path_factory.mktemp("inputs"))
    folder = tmp_path_factory.mktemp("ablation")
    write_config(inputs, folder / "base", sft=True)
    path = folder / "ablation.toml"
    path.write_text(f'base = "base.toml"\nrun_dir = "{folder}/runs"\nseeds = [3]\n{VARIANTS}')
    return path


@pytest.fixture(scope="module")
def finished(definition: Path) -> tuple[Path, int, str]:
    """Kill the launcher in the first run, and run the ablation again to its end."""
    folder = definition.parent / "runs"
    first = RunDir(folder / "as_it_is/seed_3")
    with program("ablate", str(definition)) as ablation:
        wait_for_steps(first, 2, ablation)
        ablation.process.kill()
        wait_for(lambda: not ablation.processes(), within_s=10)
    start = RunDir(folder / "start/seed_1").sft_hf
    trained_at = start.stat().st_mtime_ns
    code, output = run("ablate", str(definition))
    assert start.stat().st_mtime_ns == trained_at
    return folder, code, output


def test_a_killed_ablation_goes_on_where_it_was_and_a_failed_run_does_not_stop_it(finished):
    folder, code, output = finished
    assert code == 1, output
    assert "[1/3] as_it_is/seed_3: resumed at step" in output
    for name in ("as_it_is", "entropy"):
        run_dir = RunDir(folder / name / "seed_3")
        assert steps_of(run_dir) == [1, 2, 3, 4]
        (after,) = [r for r in read_jsonl(run_dir.evaluations) if r["when"] == "after"]
        assert after["version"] == 4
    assert "hasty_server/seed_3: exit code 10: serve_0 ended with exit code" in output
    assert "not healthy after 0.05 s (generators.start_timeout_s)" in output
    assert "failed: hasty_server/seed_3; run the same command again" in output


def test_all_runs_begin_at_the_same_weights_with_their_own_settings(finished):
    folder, _, _ = finished
    configs = {
        name: json.loads(RunDir(folder / name / "seed_3").config.read_text())
        for name in ("as_it_is", "entropy")
    }
    for config in configs.values():
        assert config["model"]["path"] == str(RunDir(folder / "start/seed_1").sft_hf)
        assert config["sft"] is None and config["seed"] == 3
    assert configs["entropy"]["algorithm"]["entropy_coefficient"] == 0.01
    assert configs["as_it_is"]["algorithm"]["entropy_coefficient"] == 0


def test_the_report_says_what_the_runs_recorded(finished):
    folder, _, _ = finished
    summary = json.loads((folder / "summary.json").read_text())
    by_name = {variant["name"]: variant for variant in summary["variants"]}
    recorded = {
        (name, record["when"]): record["pass@1"]
        for name in ("as_it_is", "entropy")
        for record in read_jsonl(RunDir(folder / name / "seed_3").evaluations)
    }
    scores = {name: variant["pass@1"]["data.evaluation"] for name, variant in by_name.items()}
    for name in ("as_it_is", "entropy"):
        assert scores[name]["after"]["mean"] == recorded[name, "after"]
        assert scores[name]["before"]["mean"] == recorded[name, "before"]
    assert scores["sft_alone"]["after"]["mean"] == recorded["as_it_is", "before"]
    assert scores["entropy"]["difference"]["mean"] == pytest.approx(
        recorded["entropy", "after"] - recorded["as_it_is", "after"]
    )
    assert by_name["hasty_server"]["num_done"] == 0
    page = (folder / "report.html").read_text()
    assert "failed at step 0 of 4: exit code 10" in page
    assert "2 of 3 runs are complete; all begin at start/seed_1" in page


def test_what_is_done_is_not_run_again(finished, definition):
    code, output = run("ablate", str(definition), "--only", "as_it_is", "entropy/3")
    assert code == 0, output
    assert output.count("done already") == 2
    code, output = run("ablate", str(definition), "--task", "0")
    assert code == 0, output
    assert "is complete; nothing is left to do" in output
