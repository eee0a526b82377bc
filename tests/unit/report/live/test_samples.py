import re
from pathlib import Path

import pytest

from megatron_rl.batch import load_batch
from megatron_rl.errors import BatchFileError
from megatron_rl.report.live.batch_reader import BatchReader
from megatron_rl.report.live.samples import (
    LATEST_STEPS,
    PER_PAGE,
    Query,
    RecordedSamples,
    latest_steps,
)
from megatron_rl.run_dir import RunDir
from tests.unit.report.live.recorded import (
    CUT,
    MALFORMED,
    RIGHT,
    WRONG,
    decode,
    sample_of,
    write_batch,
)

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">'


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path)
    write_batch(run_dir, 3, sample_of("the right one", RIGHT), sample_of("Another WAY", WRONG))
    write_batch(run_dir, 4, sample_of("no tags", MALFORMED), sample_of("goes on and", CUT))
    return run_dir


def found(run_dir: RunDir, **query: object) -> list[tuple[int, int]]:
    """Return (step, index) of each entry of a list."""
    html = RecordedSamples(run_dir, decode).list_html(Query(**query))  # type: ignore[arg-type]
    return [(int(a), int(b)) for a, b in re.findall(r'data-step="(\d+)" data-index="(\d+)"', html)]


def test_completions_are_read_as_they_were_written(run_dir: RunDir):
    batch, reader = load_batch(run_dir.batch(3)), BatchReader(run_dir.batch(3))
    assert reader.samples == batch.samples and reader.metrics == batch.metrics
    offsets = batch.sequences.offsets
    for index in range(2):
        tokens = slice(offsets[index], offsets[index + 1])
        mask = batch.sequences.loss_mask_T[tokens]
        assert reader.completion(index) == (
            batch.sequences.token_ids_T[tokens][mask].tolist(),
            batch.policy_versions_T[tokens][mask].tolist(),
        )


@pytest.mark.parametrize("part", ["nothing", "a piece of the header", "the header"])
def test_a_damaged_file_is_an_error_of_its_own(run_dir: RunDir, part: str):
    path = run_dir.batch(3)
    contents = path.read_bytes()
    header_end = 8 + int.from_bytes(contents[:8], "little")
    keep = {"nothing": 0, "a piece of the header": 60, "the header": header_end}[part]
    path.write_bytes(contents[:keep])
    with pytest.raises(BatchFileError, match="step_000003"):
        BatchReader(path)


def test_the_newest_step_comes_first(run_dir: RunDir):
    assert found(run_dir) == [(4, 0), (4, 1), (3, 0), (3, 1)]
    assert found(run_dir, step=3) == [(3, 0), (3, 1)]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        ("right", [(3, 0)]),
        ("wrong", [(4, 0), (4, 1), (3, 1)]),
        ("malformed", [(4, 0)]),
        ("truncated", [(4, 1)]),
    ],
)
def test_verdicts_and_flaws_are_filtered(run_dir: RunDir, verdict: str, expected: list):
    assert found(run_dir, verdict=verdict) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("another way", [(3, 1)]),  # the response, in any case
        ("1+1", [(4, 0), (4, 1), (3, 0), (3, 1)]),  # the problem
        ("GOLD 2", [(4, 0), (4, 1), (3, 0), (3, 1)]),
        ("refused: trunc", [(4, 1)]),  # the reason
        ("prompt", []),  # what nobody sampled
    ],
)
def test_text_is_looked_for_in_everything_that_is_shown(run_dir: RunDir, text: str, expected: list):
    assert found(run_dir, text=text) == expected


def test_long_lists_come_in_pages(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    write_batch(run_dir, 0, *(sample_of(f"text {i}", WRONG) for i in range(PER_PAGE + 3)))
    assert found(run_dir) == [(0, i) for i in range(PER_PAGE)]
    assert found(run_dir, start=PER_PAGE) == [(0, PER_PAGE + i) for i in range(3)]
    samples = RecordedSamples(run_dir, decode)
    assert f'data-start="{PER_PAGE}"' in samples.list_html(Query())
    assert "more" not in samples.list_html(Query(start=PER_PAGE))


def test_a_search_that_takes_long_stops_and_says_so(run_dir: RunDir):
    times = iter(range(0, 1000, 3))
    samples = RecordedSamples(run_dir, decode, clock=lambda: next(times))
    # The deadline is at 5 s: the second look at the clock is at 3 s, the third at 6 s.
    html = samples.list_html(Query(text="nowhere"))
    assert "the search stopped after 2 completions" in html


def test_one_completion_is_shown_in_full_by_policy_version(run_dir: RunDir):
    html = RecordedSamples(run_dir, decode).body_html(3, 1)
    assert '<span class="span v3" title="policy version 3">Anoth</span>' in html
    assert '<span class="span v4" title="policy version 4">er WAY</span>' in html
    assert "refused: wrong" in html and "gold 2" in html


def test_hostile_text_stays_text(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    write_batch(run_dir, 0, sample_of(HOSTILE * 2, WRONG, versions=(3, 3)), problem=HOSTILE)
    samples = RecordedSamples(run_dir, decode)
    for html in (samples.list_html(Query()), samples.body_html(0, 0)):
        assert "<script" not in html and "<img" not in html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_a_batch_that_was_removed_is_passed_over_in_lists_and_named_alone(run_dir: RunDir):
    samples = RecordedSamples(run_dir, decode)
    with pytest.raises(BatchFileError, match="step_000009"):
        samples.body_html(9, 0)
    with pytest.raises(BatchFileError, match="no completion 2"):
        samples.body_html(3, 2)
    assert found(run_dir, step=9) == []


def test_batches_of_before_format_was_recorded_are_shown(run_dir: RunDir, monkeypatch):
    samples = RecordedSamples(run_dir, decode)
    reader = BatchReader(run_dir.batch(4))
    for sample in reader.samples:
        del sample["format_ok"]
    monkeypatch.setattr(samples, "_open", lambda path: reader)
    assert 'data-index="0"' not in samples.list_html(Query(step=4, verdict="malformed"))
    assert 'data-index="1"' in samples.list_html(Query(step=4, verdict="truncated"))


def test_the_latest_steps_alone_are_offered(tmp_path: Path):
    run_dir = RunDir(tmp_path)
    assert latest_steps(run_dir) == []
    run_dir.batches.mkdir()
    for step in range(LATEST_STEPS + 5):
        run_dir.batch(step).touch()
    assert latest_steps(run_dir)[0] == LATEST_STEPS + 4
    assert len(latest_steps(run_dir)) == LATEST_STEPS
