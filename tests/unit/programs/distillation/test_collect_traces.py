"""``megatron-rl traces``: what is written was paid as correct, and is read back as it was."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megatron_rl import cli
from megatron_rl.data.sft_files import load_sft_pairs
from megatron_rl.programs.builders.demonstrations import load_demonstrations
from tests.unit.programs.distillation.recorded_run import Answer, RecordedRun
from tests.unit.test_import_direction import ROOT

RIGHT = "<think>{}</think>\\boxed{{2}}"
WRONG = Answer(text="<think>3?</think>\\boxed{3}", correct=False, paid=0.0)


def right(thoughts: str, **fields: Any) -> Answer:
    return Answer(text=RIGHT.format(thoughts), **fields)


def traces(run: RecordedRun, *arguments: object) -> list[dict[str, Any]]:
    """Run the command in this process; return the manifest."""
    words = ["traces", run.run_dir.root, "--out", run.out, *arguments]
    assert cli.main([str(word) for word in words]) == 0
    return manifest(run)


def manifest(run: RecordedRun) -> list[dict[str, Any]]:
    path = run.out.with_name("traces.jsonl.manifest.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(run: RecordedRun) -> list[tuple[str, str]]:
    return [(pair.prompt, pair.response) for pair in load_sft_pairs(run.out)]


@pytest.fixture
def run(tmp_path: Path) -> RecordedRun:
    """Three steps whose thoughts grow longer; "hard" is solved once in eight times."""
    run = RecordedRun(tmp_path, "qwen3")
    run.write_batch(0, {"easy": [right("a"), right("ab"), right("abc"), WRONG]})
    run.write_batch(
        1,
        {
            "easy": [right("abcd"), right("abcde", versions=(0, 1)), WRONG, WRONG],
            "hard": [WRONG, WRONG, WRONG, WRONG],
        },
    )
    run.write_batch(2, {"hard": [right("abcdefgh", versions=(1, 2)), WRONG, WRONG, WRONG]})
    return run


# Prompts that leave the thought unopened, opened with and without blanks, and closed; tags that are
# special tokens, added tokens or text; channels.
TEACHERS = [
    ("plain", {}, "<think>{}</think>{}"),
    ("qwen3", {}, "<think>{}</think>{}"),
    ("qwen3", {"data": {"train": "t", "template_kwargs": {"enable_thinking": False}}}, "{1}"),
    ("qwen3-thinking-2507", {}, "{}</think>{}"),
    ("r1-new", {}, "{}</think>{}"),
    ("r1-in-text", {}, "{}</think>{}"),
    ("magistral", {}, "[THINK]{}[/THINK]{}"),
    (
        "gpt-oss",
        {},
        "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}",
    ),
    ("kimi", {}, "{}\u25c1/think\u25b7{}"),
    ("qwen3", {"reward": {"thinking": "none"}}, "{1}"),
]


@pytest.mark.parametrize(("shape", "sections", "written"), TEACHERS)
def test_the_cold_start_reads_the_tokens_that_the_batch_had(tmp_path, shape, sections, written):
    run = RecordedRun(tmp_path, shape, **sections)
    texts = [
        written.format(thoughts, answer)
        for thoughts, answer in [
            ("1 + 1 = 2.", "\\boxed{2}"),
            ("\n\u00e9t\u00e9 \U0001f600 ", " \n\n\\boxed{2}\n"),
            ("\n\n \u2028x", "2"),
        ]
    ]
    run.write_batch(0, {f"Add {i} to 1": [Answer(text=text)] for i, text in enumerate(texts)})
    header, *origins = traces(run)
    assert run.config.sft is not None
    read = load_demonstrations(run.config, run.config.sft, run.tokenizer)
    expected = [run.ids(f"Add {i} to 1", text) for i, text in enumerate(texts)]
    assert [demonstration.token_ids for demonstration in read] == expected
    assert header["totals"]["retokenised_traces"] == 0
    assert [origin["sequence"] for origin in origins] == [0, 1, 2]


def test_the_file_has_think_tags_whatever_those_of_the_teacher_are(tmp_path):
    run = RecordedRun(tmp_path, "magistral")
    run.write_batch(0, {"q": [Answer(text="[THINK]a[/THINK]b")]})
    traces(run)
    assert lines(run) == [("q", "<think>a</think>b")]


def test_every_line_was_paid_as_correct(run):
    run.write_batch(
        3,
        {
            "easy": [
                right("never paid", paid=0.0),
                right("cut off", finish_reason="length"),
                right("in part", correct=False, paid=0.45),
            ]
        },
    )
    header, *origins = traces(run)
    thoughts = ["a", "ab", "abc", "abcd", "abcde", "abcdefgh"]
    assert [response for _, response in lines(run)] == [RIGHT.format(t) for t in thoughts]
    assert [(o["step"], o["problem_id"]) for o in origins] == [
        *((0, "easy"), (0, "easy"), (0, "easy"), (1, "easy"), (1, "easy"), (2, "hard")),
    ]
    assert [o["policy_versions"] for o in origins[-2:]] == [[0, 1], [1, 2]]
    assert [o["line"] for o in origins] == [1, 2, 3, 4, 5, 6]
    totals = header["totals"]
    assert totals["left_out"]["not_correct"] == 12 and totals["left_out"]["cut_off"] == 1
    assert totals["completions"] == 19 == totals["traces"] + sum(totals["left_out"].values())


def test_early_and_short_traces_are_left_out(run):
    header, *origins = traces(run, "--from-step", 1, "--min-length-quantile", 0.7)
    # Six traces; the lower of the 0.7 quantile is the fourth shortest of 0 to 5 (0.7 * 5 = 3.5).
    assert [response for _, response in lines(run)] == [
        RIGHT.format(thoughts) for thoughts in ("abcd", "abcde", "abcdefgh")
    ]
    left_out = header["totals"]["left_out"]
    assert (left_out["early_step"], left_out["short_thoughts"]) == (3, 0)
    shortest = header["totals"]["shortest_thoughts"]
    assert shortest == min(origin["thought_tokens"] for origin in origins)


def test_hard_problems_have_more_lines_and_no_problem_many(run):
    header, *origins = traces(run, "--per-problem", 2, "--upsample", 3)
    counts = Counter(origin["problem_id"] for origin in origins)
    # hard: 1 trace, solved in 1 of 8: min(3, 4) lines. easy: solved in 5 of 8.
    assert counts == {"easy": 2, "hard": 3}
    assert [o["copy"] for o in origins if o["problem_id"] == "hard"] == [0, 1, 2]
    totals = header["totals"]
    assert (totals["traces"], totals["repeated_lines"], totals["lines"]) == (3, 2, 5)


def test_the_seed_alone_decides_what_is_drawn(run):
    def drawn(seed: int) -> bytes:
        traces(run, "--per-problem", 2, "--seed", seed)
        return run.out.read_bytes()

    assert drawn(0) == drawn(0)
    assert len({drawn(seed) for seed in range(8)}) > 1


def test_general_pairs_are_mixed_in_evenly(run, tmp_path):
    mix = tmp_path / "general.jsonl"
    pairs = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(20)]
    mix.write_text("\n\n".join(map(json.dumps, pairs)))
    header, *origins = traces(run, "--mix", mix, "--share", 0.25)
    assert [("mix" in origin) for origin in origins] == [0, 0, 0, 1, 0, 0, 0, 1]
    general = [pair for pair, origin in zip(lines(run), origins, strict=True) if "mix" in origin]
    places = [int(o["mix"].rpartition(":")[2]) // 2 for o in origins if "mix" in o]
    assert general == [(f"p{i}", f"r{i}") for i in places] and len({*places}) == 2
    assert header["totals"]["general_lines"] == 2 and header["rules"]["share"] == 0.25
    traces(run, "--mix", mix)
    assert len(lines(run)) == 7  # a tenth of 6 / 0.9 = 6.7 lines is 0.7: one


def test_the_share_of_a_language_is_that_of_the_batches(tmp_path):
    run = RecordedRun(tmp_path, "qwen3")
    english = "How many apples are left in the basket if Anna takes {} of them away with her?"
    french = "Combien de pommes reste-t-il dans le panier si Anna en emporte {} avec elle ?"
    # Six completions in English, all correct, and six in French, of which two are.
    run.write_batch(0, {english.format(i): [right("a"), right("b")] for i in range(3)})
    run.write_batch(1, {french.format(i): [right("c"), WRONG] for i in range(2)})
    run.write_batch(2, {french.format(2): [WRONG, WRONG]})
    header, *origins = traces(run)
    assert header["totals"]["languages"] == {
        language: {"share_in_batches": 0.5, "share_in_traces": 0.5} for language in ("en", "fr")
    }
    assert len(origins) == 12 and header["totals"]["repeated_lines"] == 4


def test_prompts_and_texts_that_no_pair_can_say_are_counted(run, monkeypatch):
    make = run.make_prompt
    monkeypatch.setattr(run, "make_prompt", lambda problem: (*make("Earlier turn"), *make(problem)))
    run.write_batch(3, {"chat": [right("a")]})
    monkeypatch.undo()
    # The tag's second spelling is text to the model that wrote it, and the tag to a reader.
    text = "<think>a</think>b<|im_start|>user"
    run.write_batch(4, {"easy": [Answer(text=text), right("b")]})
    header, *origins = traces(run, "--from-step", 3)
    left_out = header["totals"]["left_out"]
    assert (left_out["other_prompt"], left_out["not_reproduced"]) == (1, 1)
    assert [origin["sequence"] for origin in origins] == [1]


def test_batches_that_were_removed_are_named(run, caplog):
    run.run_dir.batch(0).unlink()
    header, *_ = traces(run)
    assert "the batches of 1 of 3 steps are not there (0)" in caplog.text
    assert (header["steps"], header["missing_steps"]) == ("1 to 2", "0")


def test_a_run_that_removes_batches_is_told_which_key_does(tmp_path, caplog):
    run = RecordedRun(tmp_path, "plain", checkpoint={"keep_batches": 0})
    for step in (2, 3, 5):
        run.write_batch(step, {"q": [right("a")]})
    traces(run)
    assert "the batches of 3 of 6 steps are not there (0 to 1, 4)" in caplog.text
    assert "checkpoint.keep_batches was 0; leave that key out" in caplog.text


def complaint(run: RecordedRun, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that is refused; return the one line it says."""
    words = ["traces", run.run_dir.root, "--out", run.out, *arguments]
    assert cli.main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not run.out.exists()
    return line


def test_faults_are_one_line_and_leave_no_file(run, tmp_path, capsys):
    mix = tmp_path / "mix.jsonl"
    mix.write_text('{"prompt": "p", "response": "r"}\n{"prompt": "p"}\n')
    assert f'{mix}:2: missing field "response"' in complaint(run, capsys, "--mix", mix)
    mix.write_text('{"prompt": "p", "response": "r"}\n')
    line = complaint(run, capsys, "--mix", mix, "--share", 0.5)
    assert "needs 6 general pairs" in line and "lower --share to 0.143" in line  # 1 / 7
    assert "Name them with --mix" in complaint(run, capsys, "--share", 0.5)
    assert "cannot be read" in complaint(run, capsys, "--mix", tmp_path / "none.jsonl")
    assert "leave none of 6 traces" in complaint(run, capsys, "--from-step", 7)
    run.run_dir.batch(1).write_bytes(b"half")
    assert "cannot be read as a batch" in complaint(run, capsys)
    for step in range(3):
        run.run_dir.batch(step).unlink()
    assert "no batch is there" in complaint(run, capsys)
    run.write_batch(0, {"hard": [WRONG]})
    assert "none of 1 completions" in complaint(run, capsys)
    run.run_dir.config.unlink()
    assert "config.json: cannot be read" in complaint(run, capsys)


@pytest.mark.lengthy
def test_the_command_writes_pairs_and_manifest(run, tmp_path):
    words = [
        run.run_dir.root,
        "--out",
        run.out,
        "--per-problem",
        "2",
        "--model",
        tmp_path / "model",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "megatron_rl", "traces", *map(str, words)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(run.out), f"{run.out}.manifest.jsonl"]
    assert len(lines(run)) == 3 and "left out: per problem" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.lengthy
def test_several_processes_write_what_one_does(run, monkeypatch):
    traces(run)
    alone = run.out.read_bytes()
    monkeypatch.setattr("megatron_rl.programs.distillation.trace_files.ALONE_MIB", 0)
    traces(run)
    assert run.out.read_bytes() == alone
