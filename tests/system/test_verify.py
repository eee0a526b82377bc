"""``megatron-rl verify`` and ``judge`` as a user runs them, with processes killed at random."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tiny_run import HANGS_AFTER_S

ROOT = Path(__file__).parents[2]
NUM_LINES = 2000
SLOW_VERIFIER = """
import time
from megatron_rl.types import Verdict

def verify(problem, text):
    time.sleep(0.002)
    if problem.id == "801":
        open("half-way", "w").close()
    return Verdict(format_ok=True, correct=text.endswith(problem.extra["ending"]), answer=text[-3:])

def hang(problem, text):
    time.sleep(600)
"""


def start(*arguments: object, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "megatron_rl", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*arguments: object, folder: Path) -> "subprocess.CompletedProcess[str]":
    program = start(*arguments, folder=folder)
    _, errors = program.communicate(timeout=HANGS_AFTER_S)
    return subprocess.CompletedProcess(program.args, program.returncode, "", errors)


def write_lines(folder: Path) -> Path:
    """Write lines of two kinds: right, wrong, malformed and hard to parse ones."""
    lines: list[dict[str, Any]] = []
    for i in range(NUM_LINES):
        if i % 2:
            text = f"<think>{i}</think>{i % 5}"
            lines.append({"id": i, "kind": "slow", "ending": "3", "response": text})
            continue
        gold = f"x^{i}+1" if i % 50 == 0 else str(i)
        answer = f"1+x^{i}" if i % 50 == 0 else str(i + (i % 6 == 0))
        text = rf"<think>well</think>\boxed{{{answer}}}"
        lines.append({"id": f"m{i}", "gold": gold, "response": text[i % 14 == 0 :]})
    path = folder / "lines.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def write_config(folder: Path, judge: str = "") -> Path:
    (folder / "own.py").write_text(SLOW_VERIFIER)
    path = folder / "run.toml"
    own = '{ slow = "own.py:verify", hang = "own.py:hang" }'
    path.write_text(f"[judge]\nnum_workers = 2\nverifiers = {own}\n{judge}")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Return the verdicts without what differs from one time to the next."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        assert record.pop("seconds") >= 0
    return records


def children_of(pid: int) -> list[int]:
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            children.append(int(stat.parent.name))
    return children


def wait_until_gone(pids: list[int]) -> None:
    give_up_s = time.monotonic() + 20
    while any(Path(f"/proc/{pid}/cmdline").exists() and is_alive(pid) for pid in pids):
        assert time.monotonic() < give_up_s, f"of {pids} some are still there"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextmanager
def judge_program(
    folder: Path, *arguments: object
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run ``megatron-rl judge`` on a free port; yields the process and its URL."""
    program = start("judge", "--listen", "127.0.0.1:0", *arguments, folder=folder)
    assert program.stderr is not None
    try:
        for line in program.stderr:
            if found := re.search(r"judging with \d+ workers at (http://\S+)", line):
                threading.Thread(target=program.stderr.read, daemon=True).start()
                yield program, found[1]
                return
        raise AssertionError("the judge ended before it listened")
    finally:
        program.terminate()
        program.wait(20)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, Any]]]:
    """Return the lines, the configuration, and the verdicts when nobody dies."""
    folder = tmp_path_factory.mktemp("verify")
    lines, config, out = write_lines(folder), write_config(folder), folder / "out.jsonl"
    done = run("verify", lines, "--out", out, "--config", config, folder=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{NUM_LINES} lines in [\d.]+ s, \d+ a second", done.stderr)
    return lines, config, read(out)


@pytest.mark.parametrize(("truncated", "rewards"), [("grade", [1.0, 1.0]), ("zero", [0.0, 1.0])])
def test_a_response_that_was_cut_off_is_paid_as_the_reward_says(tmp_path, truncated, rewards):
    line = {"id": 1, "gold": "2", "response": r"<think>a</think>\boxed{2}"}
    lines = [{**line, "finish_reason": reason} for reason in ("length", "stop")]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = write_config(tmp_path, f'[reward]\ntruncated = "{truncated}"')
    done = run(
        *("verify", "lines.jsonl", "--out", "out.jsonl", "--config", config), folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    graded = read(tmp_path / "out.jsonl")
    assert [record["reward"] for record in graded] == rewards
    assert all(record["correct"] for record in graded)


def test_every_line_has_one_verdict_in_the_order_of_the_input(reference):
    lines, _, verdicts = reference
    asked = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [verdict["id"] for verdict in verdicts] == [line["id"] for line in asked]
    by_id = {verdict["id"]: verdict for verdict in verdicts}
    assert by_id[1]["correct"] is False and by_id[3]["correct"] is True  # ends with 1, 3
    assert by_id["m2"] == {
        **{"id": "m2", "correct": True, "answer": "2", "format_ok": True, "language_ok": None},
        "parts": {"format": 0.1, "correctness": 0.9, "length": 0.0, "language": 0.0},
        **{"reward": 1.0, "reason": ""},
    }
    assert by_id["m6"]["correct"] is False and by_id["m6"]["reward"] == 0.1  # 7, not 6
    assert by_id["m14"]["format_ok"] is False and by_id["m14"]["reward"] == 0.0
    assert by_id["m50"]["correct"] is True  # x^50+1 = 1+x^50


def test_killing_workers_at_random_changes_no_verdict(reference, tmp_path):
    lines, config, expected = reference
    out = tmp_path / "out.jsonl"
    program = start("verify", lines, "--out", out, "--config", config, folder=config.parent)
    dice, num_killed = random.Random(1), 0
    errors: list[str] = []
    drain = threading.Thread(target=lambda: errors.append(program.communicate()[1]))
    drain.start()
    while drain.is_alive():
        fork_servers = children_of(program.pid)
        workers = [pid for fork_server in fork_servers for pid in children_of(fork_server)]
        if workers:
            # Once it is what they are all forked from, which takes them with it.
            victim = fork_servers[0] if num_killed == 10 else dice.choice(workers)
            with suppress(ProcessLookupError):  # the judge has ended it meanwhile
                os.kill(victim, signal.SIGKILL)
                num_killed += 1
        time.sleep(dice.uniform(0.02, 0.2))
    assert program.returncode == 0, errors
    assert num_killed > 10
    assert read(out) == expected


def test_killing_one_of_two_remote_judges_changes_no_verdict(reference, tmp_path):
    lines, config, expected = reference
    mark = config.parent / "half-way"
    mark.unlink()
    key = tmp_path / "key"
    key.write_text("correct horse\n")
    lent = ("--config", config, "--workers", 1, "--key-file", key)
    with (
        judge_program(config.parent, *lent) as (doomed, url),
        judge_program(config.parent, *lent) as (_, other_url),
    ):
        asking = tmp_path / "asking.toml"
        asking.write_text(
            config.read_text().replace("num_workers = 2", "num_workers = 0")
            + f'urls = ["{url}", "{other_url}"]\nkey_file = "{key}"\n'
        )
        out = tmp_path / "out.jsonl"
        program = start("verify", lines, "--out", out, "--config", asking, folder=config.parent)
        lent_out = [
            pid for fork_server in children_of(doomed.pid) for pid in children_of(fork_server)
        ]
        while not mark.exists():
            assert program.poll() is None
            time.sleep(0.01)
        doomed.kill()
        _, errors = program.communicate(timeout=HANGS_AFTER_S)
        assert program.returncode == 0, errors
        assert "is lost" in errors or "cannot be reached" in errors, "killed too late"
        assert read(out) == expected
        assert "correct horse" not in errors
        wait_until_gone(lent_out)


def test_ctrl_c_leaves_neither_processes_nor_half_an_output(reference, tmp_path):
    _, config, _ = reference
    lines, out = tmp_path / "hang.jsonl", tmp_path / "out.jsonl"
    lines.write_text('{"id": 1, "kind": "hang", "response": "<think>a</think>b"}\n' * 3)
    program = start("verify", lines, "--out", out, "--config", config, folder=config.parent)
    while not list(tmp_path.glob(".out.jsonl.*")):  # the lines are checked, grading begins
        assert program.poll() is None
        time.sleep(0.05)
    while not (workers := [pid for n in children_of(program.pid) for pid in children_of(n)]):
        time.sleep(0.05)
    workers += children_of(program.pid)
    program.send_signal(signal.SIGINT)
    program.communicate(timeout=30)
    assert program.returncode == 130
    wait_until_gone(workers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hang.jsonl"]


def test_a_bad_line_is_refused_before_anything_is_graded(tmp_path):
    lines = tmp_path / "lines.jsonl"
    good = '{"id": 1, "gold": "2", "response": ""}\n'
    for bad, complaint in [
        ('{"id": 2, "gold": "3"}', 'the field "response" is needed'),
        ('{"id": 2, "kind": "poem", "response": ""}', 'unknown kind "poem"'),
        ('{"id": 2, "gold": "\\\\frac{1}{", "response": ""}', "cannot be verified"),
        ('{"id": 2, "kind": "code", "language": "cobol", "response": ""}', "cobol"),
    ]:
        lines.write_text(good + bad)
        done = run("verify", lines, "--out", tmp_path / "o", "--workers", 1, folder=tmp_path)
        assert done.returncode == 2
        assert f"{lines}:2: " in done.stderr and complaint in done.stderr
        assert not (tmp_path / "o").exists()


def test_a_public_address_needs_a_key(tmp_path):
    done = run("judge", "--listen", "0.0.0.0:0", "--workers", 1, folder=tmp_path)
    assert done.returncode == 2
    assert "needs a key; give --key-file FILE, or set MEGATRON_RL_JUDGE_KEY" in done.stderr


def test_the_example_of_a_custom_verifier_does_what_its_readme_says(tmp_path):
    example = Path("examples/custom_verifier")
    out = tmp_path / "verdicts.jsonl"
    config = example / "run.toml"
    done = run(
        *("verify", example / "responses.jsonl", "--out", out, "--config", config), folder=ROOT
    )
    assert done.returncode == 0, done.stderr
    outcomes = {record["id"]: (record["correct"], record["reason"]) for record in read(out)}
    assert outcomes == {
        "haiku": (True, ""),
        "short": (False, "2 words instead of 5"),
        "dry": (False, "does not use rain"),
        "blank": (False, "no answer"),
        "hasty": (False, "does not start with <think>"),
        "broken": (
            None,
            "problem broken: no verdict after 2 attempts: the verifier raised KeyError: 'must_use'",
        ),
        "sum": (True, ""),
    }
    assert re.search(r"word_count +1 +2 +1 +1 +1 ", done.stderr)


def test_the_tags_of_a_model_are_named_in_the_configuration(tmp_path):
    lines, out, config = (tmp_path / name for name in ("lines.jsonl", "out.jsonl", "run.toml"))
    config.write_text('[judge]\nnum_workers = 1\n[reward]\nthinking = ["[THINK]", "[/THINK]"]\n')
    texts = {
        "own": r"[THINK]a[/THINK]\boxed{2}",
        "other": r"<think>a</think>\boxed{2}",
        "unopened": r"a[/THINK]\boxed{2}",
    }
    records = [{"id": name, "gold": "2", "response": text} for name, text in texts.items()]
    for state, text in (("opened", texts["unopened"]), ("closed", r"\boxed{2}")):
        records.append({"id": state, "gold": "2", "response": text, "prompt_thought": state})
    lines.write_text("\n".join(map(json.dumps, records)))
    done = run("verify", lines, "--out", out, "--config", config, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {record["id"]: (record["correct"], record["reason"]) for record in read(out)} == {
        "own": (True, ""),
        "other": (
            False,
            "does not start with [THINK] but with <think>; reward.thinking says which tags count",
        ),
        "unopened": (False, "does not start with [THINK]"),
        "opened": (True, ""),
        "closed": (True, ""),
    }
