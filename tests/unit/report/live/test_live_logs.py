from pathlib import Path

from megatron_rl.report.live.logs import TAIL_LINES, log_sizes, tail


def test_every_log_is_listed_with_its_size(tmp_path: Path):
    (tmp_path / "job_7" / "attempt_0").mkdir(parents=True)
    (tmp_path / "learn_0.log").write_text("12345")
    (tmp_path / "job_7" / "attempt_0" / "rollout.log").write_text("1")
    assert log_sizes(tmp_path) == {"job_7/attempt_0/rollout.log": 1, "learn_0.log": 5}
    assert log_sizes(tmp_path / "none") == {}


def test_the_last_lines_are_read(tmp_path: Path):
    path = tmp_path / "a.log"
    path.write_text("".join(f"line {i}\n" for i in range(1000)))
    lines = tail(path, secrets=()).splitlines()
    assert lines == [f"line {i}" for i in range(1000 - TAIL_LINES, 1000)]


def test_a_huge_log_is_read_at_its_end_and_begins_with_a_whole_line(tmp_path: Path):
    path = tmp_path / "a.log"
    path.write_text("".join(f"{i:0999}\n" for i in range(1000)))
    text = tail(path, secrets=())
    assert len(text) < 200_000
    assert all(len(line) == 999 for line in text.splitlines())


def test_keys_are_blotted_out(tmp_path: Path):
    path = tmp_path / "a.log"
    path.write_text("Authorization: Bearer s3cret-key\nand k2\n")
    text = tail(path, secrets=["s3cret-key", "k2"])
    assert text == "Authorization: Bearer <api key>\nand <api key>\n"


def test_a_key_that_the_start_of_the_tail_cuts_in_two_is_not_half_shown(tmp_path: Path):
    path = tmp_path / "a.log"
    # The tail begins in the middle of the first line.
    path.write_text("s3cret-key" * 13_200 + "\nlast\n")
    assert tail(path, secrets=["s3cret-key"]) == "last\n"


def test_progress_bars_and_colours_look_as_in_a_terminal(tmp_path: Path):
    path = tmp_path / "a.log"
    path.write_bytes(b"10%\r50%\r100%\n\x1b[31mred\x1b[0m\r\n\xff\n")
    assert tail(path, secrets=()) == "100%\nred\n\ufffd\n"
