"""The pictures of docs/ are what their scripts draw, legible, and true of the package."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from megatron_rl.report.completions import CompletionView
from megatron_rl.report.page import write_report
from megatron_rl.report.summary import summarize
from tests.unit.test_import_direction import FLOOR

DOCS = Path(__file__).parents[2] / "docs"
PICTURES = [DOCS / f"{name}.svg" for name in ("architecture", "report", "resharding")]
SVG = "{http://www.w3.org/2000/svg}"
# The package's own plumbing, which is on no floor of the picture.
NOT_DRAWN = {"__init__", "__main__", "serving_standins", "serving_plugin"}


def draw(script: str, *arguments: object) -> str:
    """Run a script without site-packages: the standard library has to do."""
    done = subprocess.run(
        [sys.executable, "-S", DOCS / script, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def extent(text: ET.Element) -> tuple[float, float]:
    """Return about where a text starts and ends; its type is the reader's."""
    style = text.attrib["class"].split()
    letter = 0.6 if "mono" in style or "bold" in style else 0.53
    width = letter * float(text.attrib["font-size"]) * len(text.text or "")
    left = float(text.attrib["x"])
    left -= width if "end" in style else width / 2 if "middle" in style else 0
    return left, left + width


def test_the_picture_of_the_architecture_is_what_its_script_draws():
    assert (DOCS / "architecture.svg").read_text() == draw("draw_architecture.py"), (
        "docs/architecture.svg is out of date; run: "
        "python docs/draw_architecture.py > docs/architecture.svg"
    )


def test_the_picture_of_resharding_is_what_its_script_draws():
    assert (DOCS / "resharding.svg").read_text() == draw("draw_resharding.py"), (
        "docs/resharding.svg is out of date; run: "
        "python docs/draw_resharding.py > docs/resharding.svg"
    )


def test_every_unit_of_the_package_is_on_its_floor():
    texts = [t.text or "" for t in ET.parse(DOCS / "architecture.svg").iter(f"{SVG}text")]
    drawn, floor = {}, None
    for words in texts[texts.index("floors of the package") + 2 :]:
        if heading := re.match(r"[\d.]+", words):
            floor = float(heading[0])
        else:
            drawn[words] = floor
    assert drawn == {unit: floor for unit, floor in FLOOR.items() if unit not in NOT_DRAWN}, (
        "change FLOORS in docs/draw_architecture.py and draw the picture again"
    )


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_fits_a_page_in_both_modes_and_fetches_nothing(path: Path):
    picture = ET.parse(path).getroot()
    assert int(picture.attrib["width"]) <= 1000
    source = path.read_text()
    assert "prefers-color-scheme: dark" in source
    assert re.findall(r"href|url\((?!#)|@import|<script|<image", source) == []


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_no_text_of_a_picture_overlaps_another_or_leaves_it(path: Path):
    picture = ET.parse(path).getroot()
    texts = list(picture.iter(f"{SVG}text"))
    assert len(texts) > 30
    for i, one in enumerate(texts):
        left, right = extent(one)
        assert left >= 0 and right <= int(picture.attrib["width"]), one.text
        for other in texts[:i]:
            away = abs(float(one.attrib["y"]) - float(other.attrib["y"]))
            begin, end = extent(other)
            is_beside = end <= left + 2 or begin >= right - 2
            assert is_beside or away >= 0.8 * float(one.attrib["font-size"]), (one.text, other.text)


def test_the_picture_of_a_report_has_the_numbers_of_its_page(tmp_path: Path):
    metrics = [
        {
            "step": step, "time": 100.0 + step, "reward/total": 0.125 * step,
            "rollout/correct": 0.25, "rollout/length_mean": 100.0, "rollout/length_max": 200.0,
            "rollout/staleness_mean": 1.0, "rollout/staleness_max": 2.0,
            "rollout/completions": 617.0, "generation/tokens_per_s": 1000.0,
            "learner/tokens_per_s": 2000.0, "time/update_s": 2.0, "time/step_s": 3.5,
        }
        for step in range(1, 5)
    ]  # fmt: skip
    evaluation = {"version": 0, "time": 1.0, "when": "before", "problems": 4, "samples": 1, "k": 1}
    evaluation["length_mean"] = 9.0
    records = {
        "metrics": metrics,
        "evaluations": [evaluation | {"pass@1": 0.375, "pass@k": 0.375, "maj@k": 0.375}],
        "sft_metrics": [],
    }
    completion = CompletionView(
        step=3, problem="1 < 2?", gold="yes", spans=[(1, "so "), (2, "<yes>")],
        reward_parts={"correctness": 0.9}, correct=True, reason="",
    )  # fmt: skip
    write_report(
        tmp_path / "report.html",
        title="a run",
        summary=summarize(**records, phase_seconds={"training": 61.0}),
        completions=[completion],
        **records,
    )
    picture = ET.fromstring(draw("draw_report.py", tmp_path / "report.html", "by hand"))
    texts = {text.text for text in picture.iter(f"{SVG}text")}
    # 4 * 617 completions; rewards of the first and of the last step.
    assert "4 steps, 2,468 completions" in texts
    assert {"37.5%", "0.125 \u2192 0.500", "a run", "by hand", "so ", "<yes>"} <= texts
