"""``megatron-rl train`` from cold start to report, with the real SGLang and the real Megatron."""

import contextlib
import json
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from run_records import DP2, batches_of, latest_checkpoint, steps_of, weights_of
from tiny_run import (
    NUM_PROBLEMS,
    REPOSITORY,
    SERVE_PYTHON,
    program,
    run,
    wait_for,
    write_config,
    write_inputs,
    write_jsonl,
)
from transformers import AutoModelForCausalLM

from megatron_rl.programs.processes.ports import free_port
from megatron_rl.registry import registered_servers
from megatron_rl.run_dir import RunDir, read_jsonl

NUM_STEPS = 5
# Its contexts, of 128 tokens, are all that it scales the model to.
SCALED = 'model.rope_scaling={type = "yarn", factor = 4.0, original_max_position_embeddings = 32}'

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no serving environment in .venv-serve"),
]


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    run_dir: RunDir
    exit_code: int
    output: str
    api_keys: frozenset[str]
    registration_modes: frozenset[int]
    survivors: dict[int, str]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    problems = [
        {"id": f"q{i}", "problem": f"{i}+0", "answer": str(i % 4), "language": ("fr", "zh")[i % 2]}
        for i in range(8)
    ]
    write_jsonl(folder / "languages.jsonl", problems)
    return folder


def held_out_sets(inputs: Path) -> str:
    """Return the setting of a set beside that of data.evaluation, which asks for longer answers."""
    return (
        f'evaluation.sets=[{{name = "languages", path = "{inputs}/languages.jsonl", every = 0, '
        "num_samples = 4, temperature = 1.0, max_new_tokens = 40}]"
    )


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A whole run at data-parallel size 2, watched while it lasts."""
    run_dir = RunDir(tmp_path_factory.mktemp("finished") / "run")
    config = write_config(inputs, run_dir.root, sft=True)
    keys, modes = set(), set()
    settings = [f"num_steps={NUM_STEPS}", held_out_sets(inputs), SCALED]
    overrides = [word for setting in settings for word in ("--set", setting)]
    with program("train", str(config), *DP2, *overrides) as train:
        while train.process.poll() is None:
            keys |= {info.api_key for info in registered_servers(run_dir).values()}
            modes |= modes_of(run_dir.servers)
            time.sleep(0.1)
        exit_code, output = train.finish(within_s=10)
        survivors = train.processes()
    return FinishedRun(
        run_dir=run_dir,
        exit_code=exit_code,
        output=output,
        api_keys=frozenset(keys),
        registration_modes=frozenset(modes),
        survivors=survivors,
    )


def modes_of(folder: Path) -> set[int]:
    modes = set()
    for path in folder.glob("*"):
        try:
            modes.add(stat.S_IMODE(path.stat().st_mode))
        except FileNotFoundError:
            continue
    return modes


def test_a_run_finishes_and_leaves_everything_a_person_needs(finished):
    assert finished.exit_code == 0, finished.output
    root = finished.run_dir.root
    for name in ("config.json", "summary.json", "report.html", "checkpoints/latest.json"):
        assert (root / name).stat().st_size > 0
    assert latest_checkpoint(finished.run_dir) == NUM_STEPS
    for writer in ("learn", "evaluation", "sft"):
        assert list((root / "tensorboard" / writer).glob("events.out.tfevents.*"))
    summary = json.loads(finished.run_dir.summary.read_text())
    assert summary["policy_versions"] == NUM_STEPS + 1
    assert str(finished.run_dir.report) in finished.output


def test_every_step_has_one_line_of_metrics(finished):
    records = list(read_jsonl(finished.run_dir.metrics))
    assert [record["step"] for record in records] == list(range(1, NUM_STEPS + 1))
    expected = {
        *("policy/loss", "policy/grad_norm", "policy/clip_fraction", "reward/total"),
        *("rollout/spanning_fraction", "rollout/staleness_mean", "rollout/dropped_groups"),
        *("generation/tokens_per_s", "learner/tokens_per_s", "time/step_s", "time/pause_s"),
    }
    for record in records:
        assert expected <= record.keys()
        assert record["publish/servers"] == 1
    assert any(record["policy/grad_norm"] > 0 for record in records)


def test_it_is_evaluated_before_during_and_after(finished):
    records = [r for r in read_jsonl(finished.run_dir.evaluations) if "set" not in r]
    assert (records[0]["when"], records[0]["version"]) == ("before", 0)
    assert (records[-1]["when"], records[-1]["version"]) == ("after", NUM_STEPS)
    assert {record["when"] for record in records[1:-1]} == {"during"}
    assert records[0]["pass@1"] > 0  # the cold start has taught the format


def test_a_further_set_is_evaluated_as_it_says_and_by_language(finished):
    records = [r for r in read_jsonl(finished.run_dir.evaluations) if "set" in r]
    moments = [(r["set"], r["when"], r["version"]) for r in records]
    assert moments == [("languages", "before", 0), ("languages", "after", NUM_STEPS)]
    summary = json.loads(finished.run_dir.summary.read_text())
    for record in records:
        folder = finished.run_dir.samples_of("languages")
        _, *lines = read_jsonl(folder / f"{record['when']}_{record['version']:06d}.jsonl")
        samples = [sample for line in lines for sample in line["samples"]]
        assert len(samples) == record["samples"] == 32 and record["k"] == 4
        assert record["pass@1"] == pytest.approx(np.mean([s["correct"] for s in samples]))
        assert record["truncated"] == pytest.approx(np.mean([s["truncated"] for s in samples]))
        assert max(s["length"] for s in samples) <= 40
        assert record["pass@1"] <= record["pass@2"] <= record["pass@4"] == record["pass@k"]
        halves = [record[f"language/{language}/pass@1"] for language in ("fr", "zh")]
        assert record["pass@1"] == pytest.approx(np.mean(halves))
        moment = f"evaluation/languages/pass@1/{record['when']}"
        assert summary[moment] == record["pass@1"]
    report = finished.run_dir.report.read_text()
    assert "Held-out scores" in report and "language fr" in report
    assert "held-out languages: 8 problems x 4 = 32 completions of up to 40" in finished.output


def test_completions_go_on_under_newer_weights(finished):
    spanning, stale = 0, 0
    for step, batch in enumerate(batches_of(finished.run_dir)):
        assert batch.newest_version <= step
        stale += batch.oldest_version < step
        for start, end in zip(
            batch.sequences.offsets[:-1], batch.sequences.offsets[1:], strict=True
        ):
            versions = batch.policy_versions_T[start:end][batch.sequences.loss_mask_T[start:end]]
            assert (np.diff(versions) >= 0).all()
            spanning += len(set(versions.tolist())) > 1
    assert spanning > 0 and stale > 0


def test_the_final_model_loads_in_transformers_and_has_been_trained(finished):
    model = AutoModelForCausalLM.from_pretrained(finished.run_dir.hf)
    exported = weights_of(finished.run_dir.hf)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in exported.items())
    start = weights_of(finished.run_dir.sft / "hf")
    assert start.keys() == exported.keys()
    assert any(not torch.equal(start[name], exported[name]) for name in start)


def test_every_folder_of_weights_has_the_runs_rope_scaling(finished):
    for folder in (finished.run_dir.sft / "hf", finished.run_dir.hf):
        config = json.loads((folder / "config.json").read_text())
        assert config["max_position_embeddings"] == 128
        table = config["rope_parameters"]
        assert (table["rope_type"], table["factor"]) == ("yarn", 4.0)
        assert table["original_max_position_embeddings"] == 32


def test_secrets_stay_secret_and_no_process_stays(finished):
    assert finished.registration_modes == {0o600}
    assert finished.api_keys
    assert list(finished.run_dir.servers.iterdir()) == []
    files = [path for path in finished.run_dir.root.rglob("*") if path.is_file()]
    for key in finished.api_keys:
        assert key not in finished.output
        assert [path for path in files if key.encode() in path.read_bytes()] == []
    assert finished.survivors == {}


def test_logs_hold_our_lines_and_not_those_of_third_parties(finished):
    for path in [*finished.run_dir.logs.glob("learn_*"), *finished.run_dir.logs.glob("sft_*")]:
        assert "Warning" not in path.read_text()
    assert "Warning" not in finished.output


def test_a_finished_run_has_nothing_left_to_do(finished):
    evaluations = finished.run_dir.evaluations.read_text()
    phases = finished.run_dir.phases.read_text()
    exit_code, output = run("train", str(finished.run_dir.config))
    assert exit_code == 0, output
    assert "nothing is left to do" in output
    assert finished.run_dir.phases.read_text() == phases  # no program was started
    assert finished.run_dir.evaluations.read_text() == evaluations
    assert steps_of(finished.run_dir) == list(range(1, NUM_STEPS + 1))


@pytest.mark.parametrize("num_processes", [2, 1])
def test_recorded_batches_give_the_same_model_again(finished, tmp_path, num_processes):
    replayed = RunDir(tmp_path / "run")
    shutil.copytree(finished.run_dir.batches, replayed.batches)
    shutil.copytree(finished.run_dir.sft / "hf", replayed.sft / "hf")
    arguments = ["learn", str(finished.run_dir.config), "--replay"]
    arguments += ["--set", f"run_dir={replayed.root}"]
    port = free_port()
    ranks = [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_processes)}
        | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for rank in range(num_processes)
    ]
    with program(*arguments, environment=ranks[0]) as first:
        if num_processes == 2:
            with program(*arguments, environment=ranks[1]) as second:
                assert second.finish()[0] == 0
        exit_code, output = first.finish()
    assert exit_code == 0, output

    tolerance = 0.0 if num_processes == 2 else 1e-5
    expected, found = weights_of(finished.run_dir.hf), weights_of(replayed.hf)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=tolerance)
    pairs = zip(read_jsonl(finished.run_dir.metrics), read_jsonl(replayed.metrics), strict=True)
    for recorded, again in pairs:
        for name in ("policy/loss", "policy/grad_norm", "policy/clip_fraction", "reward/total"):
            assert again[name] == pytest.approx(recorded[name], rel=10 * tolerance, abs=tolerance)


def test_a_finished_model_is_evaluated(finished, tmp_path):
    exit_code, output = run("evaluate", str(finished.run_dir.config), "--samples", str(tmp_path))
    assert exit_code == 0, output
    scores = json.loads(output[output.index("{\n") : output.rindex("}") + 1])
    assert list(scores) == ["data.evaluation", "languages"]
    assert scores["data.evaluation"]["problems"] == 40
    assert scores["languages"]["samples"] == 32 and 0 <= scores["languages"]["maj@4"] <= 1
    assert (tmp_path / "languages.jsonl").read_text().count("\n") == 1 + 8


def servers_of_filters() -> list[int]:
    """Return the servers that run in the temporary folders of tools."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if b"megatron-rl-served-" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_problems_are_filtered_by_difficulty_and_a_killed_filter_goes_on(
    inputs, finished, tmp_path
):
    out = tmp_path / "kept.jsonl"
    grades = tmp_path / "kept.jsonl.grades.jsonl"
    command = [
        *(sys.executable, str(REPOSITORY / "tools/filter_difficulty.py")),
        *(str(finished.run_dir.config), "--problems", str(inputs / "problems.jsonl")),
        *("--out", str(out), "--model", str(finished.run_dir.sft / "hf")),
        *("--reserve", str(tmp_path / "hard.jsonl")),
        *("--set", "difficulty.num_samples=8", "--set", "evaluation.temperature=1"),
        *("--set", "difficulty.doubt_share=0.6"),
    ]
    with subprocess.Popen(command, start_new_session=True) as first:
        wait_for(lambda: first.poll() or (grades.exists() and grades.read_text().count("\n") > 3))
        first.kill()
    wait_for(lambda: not servers_of_filters(), within_s=10)
    num_graded = grades.read_text().count("\n")
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    records = [json.loads(line) for line in grades.read_text().splitlines()]
    assert len({record["problem_id"] for record in records}) == len(records) == NUM_PROBLEMS
    assert num_graded < NUM_PROBLEMS
    rates = {record["problem_id"]: record["num_correct"] / 8 for record in records}
    kept = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    doubted = [
        r["problem_id"] for r in records if r["wrong_answers"] and r["wrong_answers"][0][1] > 4.8
    ]
    assert kept == [f"p{i}" for i in range(NUM_PROBLEMS) if 0 < rates[f"p{i}"] <= 0.75
                    and f"p{i}" not in doubted]  # fmt: skip
    hard = [json.loads(line)["id"] for line in (tmp_path / "hard.jsonl").read_text().splitlines()]
    unsolved = [f"p{i}" for i in range(NUM_PROBLEMS) if rates[f"p{i}"] == 0]
    assert hard == [name for name in unsolved if name not in doubted]
    # Other thresholds ask nobody: no server is started for them.
    looser = [*command, "--set", "difficulty.max_pass_rate=1", "--set", "difficulty.doubt_share=1"]
    with subprocess.Popen(looser, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as third:
        while third.poll() is None:
            assert not servers_of_filters()
            time.sleep(0.1)
    assert third.returncode == 0
    assert len(out.read_text().splitlines()) == sum(rate > 0 for rate in rates.values())


def test_tensor_parallel_learner_trains_in_lockstep_through_the_disk(inputs, finished, tmp_path):
    run_dir = RunDir(tmp_path / "run")
    shutil.copytree(finished.run_dir.sft, run_dir.sft)
    config = write_config(inputs, run_dir.root, sft=True)
    settings = [
        *("num_steps=3", "learner.num_processes=2", "learner.parallel.tp=2", SCALED),
        *("learner.parallel.sp=true", 'weights.transport="disk"', 'rollout.mode="sync"'),
    ]
    overrides = [word for setting in settings for word in ("--set", setting)]
    exit_code, output = run("train", str(config), *overrides)
    assert exit_code == 0, output
    assert steps_of(run_dir) == [1, 2, 3]
    for step, batch in enumerate(batches_of(run_dir)):
        assert (batch.oldest_version, batch.newest_version) == (step, step)
        assert batch.metrics["rollout/staleness_max"] == 0
    (published,) = run_dir.weights.glob("*")
    served, exported = weights_of(published), weights_of(run_dir.hf)
    assert served.keys() == exported.keys()
    assert all(torch.equal(served[name], exported[name]) for name in served)
    assert (published / "config.json").read_text() == (run_dir.hf / "config.json").read_text()


@pytest.mark.slow
def test_batches_can_be_filled_without_a_learner(inputs, finished, tmp_path):
    run_dir = RunDir(tmp_path / "run")
    shutil.copytree(finished.run_dir.sft / "hf", run_dir.sft / "hf")
    config = write_config(inputs, run_dir.root, sft=True)
    with program("serve", str(config)) as serve:
        exit_code, output = run(*("rollout", str(config), "--standalone", "--num-batches", "1"))
        assert exit_code == 0, output
        serve.process.terminate()
        assert serve.finish(within_s=10)[0] == 0
    (batch,) = batches_of(run_dir)
    assert batch.num_sequences == 16
    assert (batch.oldest_version, batch.newest_version) == (0, 0)
