"""The judge of a run from its configuration, and what is refused before it is opened."""

import json
import time
from pathlib import Path

import pytest

from megatron_rl.config import JudgeConfig, RewardConfig, load_judging
from megatron_rl.errors import ConfigError
from megatron_rl.programs.builders import judge as builder
from megatron_rl.programs.judge import parse_address
from megatron_rl.programs.processes.ports import is_loopback
from megatron_rl.types import Problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8700", ("127.0.0.1", 8700)),
        ("8700", ("127.0.0.1", 8700)),
        (":8700", ("127.0.0.1", 8700)),
        ("[::1]:0", ("::1", 0)),
        ("node7:80", ("node7", 80)),
    ],
)
def test_an_address_is_host_and_port(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize("text", ["", "node7", "node7:", "node7:http", "node7:70000"])
def test_an_address_without_a_port_is_refused(text):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("node7", False),
    ],
)
def test_only_this_machine_reaches_a_loopback_address(host, expected):
    assert is_loopback(host) is expected


def test_a_judge_with_nobody_to_judge_is_refused():
    with pytest.raises(ConfigError, match=r"judge\.num_workers \(0\) must be >= 1, or judge\.urls"):
        builder.open_judge(JudgeConfig(num_workers=0), RewardConfig())


def test_a_kind_of_the_package_cannot_be_replaced():
    judge = JudgeConfig(verifiers={"math": "a.py:f"})
    with pytest.raises(ConfigError, match=r"judge\.verifiers\.math \(a\.py:f\) must have a name"):
        builder.open_judge(judge, RewardConfig())


def test_terms_say_what_makes_verdicts_and_not_where():
    here = JudgeConfig(verifiers={"own": "a.py:f"})
    there = JudgeConfig(verifiers={"own": "/b.py:f"}, code={"cache_dir": "/c"}, deadline_s=1.0)
    other = JudgeConfig(verifiers={"own": "a.py:f"}, code={"num_tests": 3})

    def fingerprint(judge: JudgeConfig, language: float = 0.1) -> object:
        settings = builder.verifier_settings(judge, RewardConfig(language=language))
        return json.loads(json.dumps(builder.grading_fingerprint(settings)))

    assert fingerprint(here) == fingerprint(there)
    assert fingerprint(here) != fingerprint(other) and fingerprint(here) != fingerprint(
        here, language=0.0
    )


def test_a_fraction_of_tests_is_measured_when_it_is_paid_for():
    settings = builder.verifier_settings(JudgeConfig(), RewardConfig(proportional_code=True))
    assert settings["code"]["run_all"] is True
    assert builder.verifier_settings(JudgeConfig(), RewardConfig())["code"]["run_all"] is False


def test_the_key_comes_from_the_file_or_the_environment(tmp_path: Path, monkeypatch):
    monkeypatch.delenv(builder.KEY_VARIABLE, raising=False)
    assert builder.read_key(None) is None
    monkeypatch.setenv(builder.KEY_VARIABLE, "from afar")
    assert builder.read_key(None) == "from afar"
    (tmp_path / "key").write_text(" secret\n")
    assert builder.read_key(tmp_path / "key") == "secret"
    (tmp_path / "key").write_text("\n")
    for path in (tmp_path / "key", tmp_path / "absent"):
        with pytest.raises(ConfigError, match=r"judge\.key_file .*(empty|cannot be read)"):
            builder.read_key(path)


def test_grading_reads_two_sections_of_a_run_and_nothing_else(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text("num_steps = 'many'\n[judge]\nnum_workers = 3\nkey_file = 'k'\n[reward]\n")
    config = load_judging(path)
    assert config.judge.num_workers == 3
    assert config.judge.key_file is not None and config.judge.key_file.is_absolute()
    path.write_text("[judge]\nnum_wrkers = 3\n")
    with pytest.raises(ConfigError, match=r"unknown key judge\.num_wrkers; did you mean"):
        load_judging(path)
    path.write_text("[judge]\nmemory_mb = 256\n[judge.code]\noutput_mb = 17\n")
    with pytest.raises(ConfigError, match=r"run\.toml: judge\.memory_mb \(256\) must be >= 264"):
        load_judging(path)  # 128 + 8 * 17


@pytest.mark.lengthy
def test_forty_thousand_plain_numbers_are_checked_at_once():
    problems = [Problem(id=str(i), text="", answer=str(i)) for i in range(40_000)]
    start_s = time.process_time()
    faults = builder.find_problem_faults(problems, judge=JudgeConfig(), reward=RewardConfig())
    assert set(faults) == {None}
    assert time.process_time() - start_s < 2.0  # 0.05 s on an idle machine


@pytest.mark.lengthy
def test_faults_are_those_of_their_problems():
    problems = [
        Problem(id="fine", text="", answer="2"),
        Problem(id="odd", text="", answer="\\frac{1}{"),
        Problem(id="algebra", text="", answer="x^2+1"),
        Problem(id="code", text="", answer="", kind="code", extra={"language": "cobol"}),
    ]
    faults = builder.find_problem_faults(problems, judge=JudgeConfig(), reward=RewardConfig())
    assert [fault is None for fault in faults] == [True, False, True, False]
    assert str(faults[1]).startswith('problem "odd" cannot be verified: its answer ')
    assert "cobol" in str(faults[3])
