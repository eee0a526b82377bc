"""Scan of a problem file before a run: every row is read once, and numbers of it are kept.

Shape letters: K = rows of the file with a problem that can be used, as far as a scan can tell.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import numpy as np

from megatron_rl.data.problem_file import ProblemFile
from megatron_rl.data.problems import MAX_FAULTS_SHOWN, ProblemRow, check_kind
from megatron_rl.errors import DataError
from megatron_rl.types import Problem

GlanceFn = Callable[[Problem], tuple[str | None, str | None]]
"""Returns why no response to a problem could be judged right, where that is seen at once; or a key
under which it has to be examined, equal for problems of equal outcome. (None, None) is fine."""

_SIZE_OF_A_MESSAGE = 8  # tokens with which a template may surround it


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """What a scan finds in some rows of a file."""

    rows_K: np.ndarray
    """[K] int64 numbers of the rows."""
    ids_K: np.ndarray
    """[K] uint64 digests of their ids."""
    contents_K: np.ndarray
    """[K] uint64 digests of what is asked and answered."""
    sizes_K: np.ndarray
    """[K] int64 bytes of what is asked, UTF-8, and some for each message."""
    num_unanswerable: int = 0
    """Rows that say that there is no answer."""
    num_unsaid: int = 0
    """Problems that do not say how to write the answer, where that is taken from them."""
    faulty_rows: list[int] = field(default_factory=list)
    """Rows that cannot be used."""
    fault_texts: dict[int, str] = field(default_factory=dict)
    """Where and why, of the first of them in each part."""
    to_examine: dict[str, list[int]] = field(default_factory=dict)
    """Rows by the key under which they have to be examined."""
    shapes: dict[tuple[str, ...], int] = field(default_factory=dict)
    """First row with each sequence of roles; () is a text."""


def scan_rows(
    file: ProblemFile, start: int, stop: int, *, kinds: Collection[str] | None, glance: GlanceFn
) -> Scan:
    """Read rows ``start`` to ``stop - 1``.

    Raises:
        DataError: a row is malformed, or of a kind that no verifier exists for.
    """
    numbers: list[tuple[int, int, int, int]] = []
    faulty: list[int] = []
    texts: dict[int, str] = {}
    num_unsaid = num_found = 0
    to_examine: dict[str, list[int]] = {}
    shapes: dict[tuple[str, ...], int] = {}
    for index, row in file.problem_rows(start, stop):
        num_found += 1
        if isinstance(row, ProblemRow):
            check_kind(row.problem, kinds, file.rows.where(index))
            fault, key = glance(row.problem)
            text = None if fault is None else f"{file.rows.where(index)}: {fault}"
        else:
            text, key = str(row), None
        if text is not None or isinstance(row, DataError):
            faulty.append(index)
            if len(texts) < MAX_FAULTS_SHOWN:
                texts[index] = str(text)
            continue
        if key is not None:
            to_examine.setdefault(key, []).append(index)
        num_unsaid += not row.says_format
        shapes.setdefault(_shape(row), index)
        numbers.append((index, _digest(row), int.from_bytes(row.content, "big"), _size(row)))
    columns = np.array(numbers, dtype=np.uint64).reshape(-1, 4).T
    return Scan(
        rows_K=columns[0].astype(np.int64),
        ids_K=columns[1],
        contents_K=columns[2],
        sizes_K=columns[3].astype(np.int64),
        num_unanswerable=stop - start - num_found,
        num_unsaid=num_unsaid,
        faulty_rows=faulty,
        fault_texts=texts,
        to_examine=to_examine,
        shapes=shapes,
    )


def joined(scans: Iterable[Scan]) -> Scan:
    """Return the scan of rows that follow each other from the scans of their parts."""
    parts = list(scans)
    to_examine: dict[str, list[int]] = {}
    shapes: dict[tuple[str, ...], int] = {}
    for part in parts:
        for key, rows in part.to_examine.items():
            to_examine.setdefault(key, []).extend(rows)
        for shape, row in part.shapes.items():
            shapes.setdefault(shape, row)
    return Scan(
        rows_K=np.concatenate([part.rows_K for part in parts]),
        ids_K=np.concatenate([part.ids_K for part in parts]),
        contents_K=np.concatenate([part.contents_K for part in parts]),
        sizes_K=np.concatenate([part.sizes_K for part in parts]),
        num_unanswerable=sum(part.num_unanswerable for part in parts),
        num_unsaid=sum(part.num_unsaid for part in parts),
        faulty_rows=[row for part in parts for row in part.faulty_rows],
        fault_texts={row: text for part in parts for row, text in part.fault_texts.items()},
        to_examine=to_examine,
        shapes=shapes,
    )


def first_of_each(scan: Scan, file: ProblemFile) -> np.ndarray:
    """Return [K] whether a row is the first of its id.

    Raises:
        DataError: two rows of one id ask for different things.
    """
    _, firsts, group_K = np.unique(scan.ids_K, return_index=True, return_inverse=True)
    first_K = firsts[group_K]
    is_other_K = scan.contents_K != scan.contents_K[first_K]
    if is_other_K.any():
        place = int(np.flatnonzero(is_other_K)[0])
        row, first = int(scan.rows_K[place]), int(scan.rows_K[first_K[place]])
        raise DataError(
            f'{file.rows.where(row)}: id "{file.row(row).problem.id}" is taken by '
            f"{file.rows.where(first)}, which is another problem"
        )
    return np.asarray(first_K == np.arange(len(first_K)))


def _shape(row: ProblemRow) -> tuple[str, ...]:
    return () if row.messages is None else tuple(message["role"] for message in row.messages)


def _digest(row: ProblemRow) -> int:
    if row.has_own_id:
        digest = hashlib.blake2b(row.problem.id.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big")
    return int.from_bytes(row.content, "big")


def _size(row: ProblemRow) -> int:
    if row.messages is None:
        return len(row.problem.text.encode())
    size = sum(len(message["content"].encode()) for message in row.messages)
    return size + _SIZE_OF_A_MESSAGE * len(row.messages)
