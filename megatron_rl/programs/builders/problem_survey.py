"""Survey of a problem file before a run: what can be used of it, once each."""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from megatron_rl.config import JudgeConfig, RewardConfig
from megatron_rl.data.problem_file import ProblemFile
from megatron_rl.data.problem_scan import Scan, first_of_each, joined, scan_rows
from megatron_rl.data.problems import MAX_FAULTS_SHOWN, faults_error
from megatron_rl.errors import DataError
from megatron_rl.programs.builders.judge import (
    find_faults,
    glance_at,
    kinds_of,
    problem_of_key,
    unverifiable,
)
from megatron_rl.programs.builders.parallel_parts import map_parts

_LOG = logging.getLogger(__name__)
_PART = 10_000
_ALONE = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """Rows of a file that problems are drawn from."""

    file: ProblemFile
    rows_P: np.ndarray
    """[P] int64 numbers of the rows, in order."""
    sizes_P: np.ndarray
    """[P] int64 bytes of what each asks."""
    keys_P: np.ndarray
    """[P] uint64 digests of their ids."""
    shapes: Mapping[tuple[str, ...], int]
    """First row with each sequence of roles."""

    def only(self, is_kept_P: np.ndarray) -> "Survey":
        """Return the survey with some rows left out, [P] bool."""
        return dataclasses.replace(
            self,
            rows_P=self.rows_P[is_kept_P],
            sizes_P=self.sizes_P[is_kept_P],
            keys_P=self.keys_P[is_kept_P],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """Task of a process: some rows of a file."""

    file: ProblemFile
    start: int
    stop: int
    kinds: Collection[str]


def survey_problems(
    file: ProblemFile,
    chosen: range,
    *,
    judge: JudgeConfig,
    reward: RewardConfig,
    drops_unusable: bool,
) -> Survey:
    """Read all chosen rows, and leave out those that are repeated or cannot be used.

    Args:
        file: the problems.
        chosen: rows to read.
        judge: names the kinds of problems that can be judged.
        reward: what is judged.
        drops_unusable: drop problems that cannot be used, instead of refusing them.

    Raises:
        DataError: rows are malformed, or all are unusable; the first are named.
        VerifierError: a verifier cannot work here.
    """
    scan = _scan(file, chosen, kinds_of(judge))
    is_first_K = first_of_each(scan, file)
    survey = Survey(
        file=file,
        rows_P=scan.rows_K[is_first_K],
        sizes_P=scan.sizes_K[is_first_K],
        keys_P=scan.ids_K[is_first_K],
        shapes=scan.shapes,
    )
    examined = _examine(survey, scan.to_examine, judge, reward)
    texts = dict(scan.fault_texts)
    for row in sorted(examined)[:MAX_FAULTS_SHOWN]:
        problem = file.row(row).problem
        texts[row] = f"{file.rows.where(row)}: {unverifiable(problem, examined[row])}"
    is_faulty_P = np.isin(survey.rows_P, list(examined))
    num_faulty = len(scan.faulty_rows) + int(is_faulty_P.sum())
    drop_or_refuse(
        texts, num=num_faulty, drops=drops_unusable and num_faulty < len(chosen), file=file
    )
    _say(file, chosen, scan, num_repeated=int((~is_first_K).sum()))
    if is_faulty_P.all():
        raise DataError(
            f"{file.path}: none of {len(chosen)} rows can be used: {scan.num_unanswerable} say "
            "that there is no answer; see data.columns.unanswerable"
        )
    return survey.only(~is_faulty_P)


def drop_or_refuse(texts: Mapping[int, str], *, num: int, drops: bool, file: ProblemFile) -> None:
    """Raise DataError of ``num`` unusable rows, or log how many are dropped, and the first."""
    if not num:
        return
    first = [texts[row] for row in sorted(texts)]
    if not drops:
        raise faults_error(first, num=num)
    _LOG.warning("%s: %d unusable problems are dropped; the first: %s", file.path, num, first[0])


def _scan(file: ProblemFile, chosen: range, kinds: Collection[str]) -> Scan:
    starts = range(chosen.start, chosen.stop, _PART)
    ends = [min(start + _PART, chosen.stop) for start in starts]
    parts = [
        _Part(file=file.part(start, end), start=start, stop=end, kinds=kinds)
        for start, end in zip(starts, ends, strict=True)
    ]
    sizes = [part.stop - part.start for part in parts]
    return joined(map_parts(_scan_part, parts, sizes, what="reading problems", alone=_ALONE))


def _scan_part(part: _Part) -> Scan:
    return scan_rows(part.file, part.start, part.stop, kinds=part.kinds, glance=glance_at)


def _examine(
    survey: Survey,
    to_examine: Mapping[str, Sequence[int]],
    judge: JudgeConfig,
    reward: RewardConfig,
) -> dict[int, str]:
    """Return the fault of each row that is in the survey and has one.

    One problem of each key is examined.
    """
    row_of = survey.file.row
    keys = list(to_examine)
    problems = [
        problem_of_key(key, lambda key=key: row_of(to_examine[key][0]).problem) for key in keys
    ]
    faults = find_faults(problems, judge=judge, reward=reward)
    found = {
        row: fault
        for key, fault in zip(keys, faults, strict=True)
        if fault is not None
        for row in to_examine[key]
    }
    if not found:
        return {}
    rows = np.array(sorted(found), dtype=np.int64)
    return {int(row): found[int(row)] for row in rows[np.isin(rows, survey.rows_P)]}


def _say(file: ProblemFile, chosen: range, scan: Scan, *, num_repeated: int) -> None:
    """Log what became of the rows, where anything did."""
    dropped = {"repeated": num_repeated, "without an answer": scan.num_unanswerable}
    said = [f"{count:,} {what}" for what, count in dropped.items() if count]
    if said:
        _LOG.info(
            "%s: of %s rows %s are dropped", file.path, f"{len(chosen):,}", " and ".join(said)
        )
    if scan.num_unsaid:
        _LOG.warning(
            "%s: %s of %s problems do not say how to write the answer, and \\boxed{} is taken; "
            "ask for it with data.columns.suffix or data.system_prompt, or set "
            "data.columns.answer_format",
            *(file.path, f"{scan.num_unsaid:,}", f"{len(scan.rows_K):,}"),
        )
