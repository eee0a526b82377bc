"""Results as JSON and as a page: nothing is lost, and nothing of a log is taken for markup."""

import json
import math

import pytest

from megatron_rl.programs.stage_runs.page import write_page
from megatron_rl.programs.stage_runs.report import Report, write_report_json
from megatron_rl.programs.stage_runs.result import (
    Figure,
    Limit,
    Outcome,
    StageResult,
    outcome_record,
    read_outcome,
    short,
)

LIMIT = Limit(at_most=0.05, reason="bf16 keeps <8> bits")
PASSED = StageResult(
    name="layers",
    shows="layers against others",
    status="passed",
    seconds=12.3,
    limit_s=60,
    figures=[
        Figure(name="error", value=0.004, limit=LIMIT),
        Figure(name="MFU", value=41, unit="%"),
    ],
    notes=["on a GPU"],
    logs=["logs/layers.log"],
)
FAILED = StageResult(
    name="load",
    shows="updates under load",
    status="failed",
    seconds=3,
    limit_s=60,
    reason="error nan, but must be at most 0.05",
    figures=[Figure(name="error", value=math.nan, limit=LIMIT)],
    tail="</pre><script>alert(1)</script> {{stages}}",
)
REPORT = Report(
    title="gpu-check",
    command="megatron-rl gpu-check",
    date="2026-01-01T00:00:00+00:00",
    is_rehearsal=False,
    machine={
        "cores": 8,
        "gpus": [{"index": "0", "name": "H200"}],
        "variables": {"NCCL_DEBUG": "x"},
    },
    versions={"torch": "2.13", "sglang": None},
    num_planned=3,
    results=[PASSED, FAILED],
)


@pytest.mark.parametrize(
    ("limit", "value", "holds", "text"),
    [
        (Limit(at_most=1, reason="r"), 1.0, True, "at most 1"),
        (Limit(at_most=1, reason="r"), 1.1, False, "at most 1"),
        (Limit(at_least=0.5, reason="r"), 0.4, False, "at least 0.5"),
        (Limit(at_least=1, at_most=2, reason="r"), 1.5, True, "1 to 2"),
        (Limit(at_most=1, reason="r"), math.nan, False, "at most 1"),
        (Limit(at_least=1, reason="r"), math.inf, True, "at least 1"),
    ],
)
def test_a_figure_is_within_its_limit_or_not(limit, value, holds, text):
    assert Figure(name="x", value=value, limit=limit).holds is holds
    assert str(limit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"),
        (1234567.0, "1,234,567"),
        (12345.6, "12,346"),
        (0.0123456, "0.0123"),
        (41.26, "41.3"),
    ],
)
def test_numbers_are_short(value, text):
    assert short(value) == text


def test_an_outcome_survives_its_file():
    outcome = Outcome(
        figures=[
            *PASSED.figures,
            Figure(name="share", value=0.5, limit=Limit(at_least=0.1, reason="some")),
        ],
        notes=["a note"],
    )
    again = read_outcome(json.loads(json.dumps(outcome_record(outcome))))
    assert again == outcome
    (figure,) = read_outcome(outcome_record(Outcome(figures=FAILED.figures))).figures
    assert math.isnan(figure.value) and not figure.holds


def test_the_json_is_strict_and_holds_figures_with_their_reasons(tmp_path):
    write_report_json(tmp_path / "results.json", REPORT)

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    record = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert record["failed"] == ["load"]
    assert record["verdict"] == "1 passed, 1 failed, 1 to come"
    figure = record["stages"][0]["figures"][0]
    assert figure == {
        "name": "error",
        "value": 0.004,
        "unit": "",
        "holds": True,
        "at_least": None,
        "at_most": 0.05,
        "reason": "bf16 keeps <8> bits",
    }
    assert record["stages"][1]["figures"][0]["value"] == "nan"
    assert record["versions"]["torch"] == "2.13"


def test_the_page_is_whole_fetches_nothing_and_shows_everything(tmp_path):
    write_page(tmp_path / "results.html", REPORT)
    page = (tmp_path / "results.html").read_text()
    assert not any(word in page for word in ("<script", "http:", "https:", "<link", "<img"))
    assert "&lt;script&gt;" in page and page.count("{{stages}}") == 1  # that of the log
    assert 'name="viewport"' in page
    for text in (
        *("layers", "0.004", "at most 0.05: bf16 keeps &lt;8&gt; bits", "41 %", "on a GPU"),
        *("load", "error nan, but must be", "logs/layers.log", "index=0, name=H200", "2.13"),
        *("1 passed, 1 failed, 1 to come", "megatron-rl gpu-check"),
    ):
        assert text in page, text
    # What failed is open.
    assert page.count("<details open>") == 1


def test_an_exit_follows_from_what_failed():
    assert REPORT.failed == ["load"]
