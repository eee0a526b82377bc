"""Samples of the latest steps: lists by filter, and one completion in full, read on demand."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from megatron_rl.errors import BatchFileError
from megatron_rl.report.completion_views import Decode, flaws_of, view_of
from megatron_rl.report.completions import CompletionView, body_html, summary_html
from megatron_rl.report.live.batch_reader import BatchReader
from megatron_rl.report.page import nothing_html
from megatron_rl.run_dir import RunDir

LATEST_STEPS = 20
"""The steps that are offered and searched."""
PER_PAGE = 20
_SEARCH_S = 5.0
"""Responses are decoded to be searched; after this the rest is left out, and that is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """Filter of a list of samples."""

    step: int | None = None
    """None for all of the latest steps."""
    verdict: str = ""
    """``right``, ``wrong``, one of ``FLAWS``; empty for all."""
    text: str = ""
    """What problem, expected answer, reason or response contain, in any case."""
    start: int = 0
    """How many matches to pass over."""


class RecordedSamples:
    """The completions in the batch files of a run. It blocks: call it in a thread."""

    def __init__(
        self, run_dir: RunDir, decode: Decode, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run_dir = run_dir
        self._decode = decode
        self._clock = clock
        # A batch file is never rewritten, so its header need not be read twice.
        self._open = functools.lru_cache(maxsize=4)(BatchReader)

    def list_html(self, query: Query) -> str:
        """Return a page of folded entries, the newest step first, and a line about them."""
        matches = self._matches(query)
        deadline = self._clock() + _SEARCH_S
        rows: list[str] = []
        num_passed = num_looked_at = 0
        is_cut = has_more = False
        for step, index, is_match in matches:
            num_looked_at += 1
            if is_match and num_passed < query.start:
                num_passed += 1
            elif is_match and len(rows) == PER_PAGE:
                has_more = True
                break
            elif is_match:
                rows.append(self._row(step, index))
            if self._clock() > deadline:
                is_cut = True
                break
        note = f"{len(rows)} shown" + (f", from {query.start + 1}" if query.start else "")
        if is_cut:
            note += f"; the search stopped after {num_looked_at:,} completions: choose a step"
        more = (
            f'<button id="more" data-start="{query.start + PER_PAGE}">more</button>'
            if has_more
            else ""
        )
        found = "".join(rows) or nothing_html("No completions.")
        return f'<p class="muted" id="found">{note}</p>{found}{more}'

    def body_html(self, step: int, index: int) -> str:
        """Return one completion in full.

        Raises:
            BatchFileError: there is none, or its batch has been removed.
        """
        return body_html(self._view(step, index))

    def _matches(self, query: Query) -> Iterator[tuple[int, int, bool]]:
        steps = latest_steps(self._run_dir) if query.step is None else [query.step]
        for step in steps:
            try:
                samples = self._read(step).samples
                for index in range(len(samples)):
                    yield step, index, self._is_match(query, step, index)
            except BatchFileError:  # the learner has removed it meanwhile
                continue

    def _is_match(self, query: Query, step: int, index: int) -> bool:
        sample = self._read(step).samples[index]
        labels = ("right" if sample["correct"] else "wrong", *flaws_of(sample))
        if query.verdict and query.verdict not in labels:
            return False
        wanted = query.text.lower()
        told = (sample["problem"], sample["gold"], sample["reason"])
        if any(wanted in text.lower() for text in told):
            return True
        token_ids, _ = self._read(step).completion(index)
        return wanted in self._decode(token_ids).lower()

    def _row(self, step: int, index: int) -> str:
        sample = self._read(step).samples[index]
        view = view_of(sample, step=step, token_ids=[], versions=[], decode=self._decode)
        return (
            f'<details class="card completion" data-step="{step}" data-index="{index}">'
            f"{summary_html(view, ', '.join(view.flaws))}</details>"
        )

    def _view(self, step: int, index: int) -> CompletionView:
        batch = self._read(step)
        if not 0 <= index < len(batch.samples):
            raise BatchFileError(f"{self._run_dir.batch(step)}: has no completion {index}")
        token_ids, versions = batch.completion(index)
        return view_of(
            batch.samples[index],
            step=step,
            token_ids=token_ids,
            versions=versions,
            decode=self._decode,
        )

    def _read(self, step: int) -> BatchReader:
        return self._open(self._run_dir.batch(step))


def latest_steps(run_dir: RunDir) -> Sequence[int]:
    """Return the steps of the newest batch files, newest first."""
    paths = sorted(run_dir.batches.glob("step_*.safetensors"), reverse=True)
    return [int(path.stem.removeprefix("step_")) for path in paths[:LATEST_STEPS]]
