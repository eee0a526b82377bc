"""Survey of a run's batch files: who was correct, how long, in which language, file by file."""

import collections
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_rl.batch import Batch, load_batch
from megatron_rl.config import RunConfig, resolve
from megatron_rl.errors import BatchFileError, DataError
from megatron_rl.programs.builders.parallel_parts import map_parts
from megatron_rl.programs.builders.prompts import load_tokenizer
from megatron_rl.programs.distillation.trace_reader import TraceReader
from megatron_rl.run_dir import RunDir
from megatron_rl.verifiers.language import language_of

UNKNOWN_LANGUAGE = "unknown"
"""Language of problems that are too short to tell."""
MIB = 1 << 20
ALONE_MIB = 16
"""Size of batch files that are not worth a second process."""
_KEPT_LANGUAGES = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchFile:
    """A batch file of a run, and how its completions are read; small enough for a process."""

    path: Path
    step: int
    config: str
    """The run's configuration, JSON."""

    @property
    def num_mib(self) -> int:
        """Size, rounded up; 1 for a file that is gone, which its reader complains about."""
        return 1 + self.path.stat().st_size // MIB if self.path.exists() else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSurvey:
    """Numbers of one batch file; a candidate is a correct completion that a pair can say."""

    step: int
    sampled: Mapping[str, int]
    """Completions by problem id."""
    correct: Mapping[str, int]
    """Those paid as correct."""
    languages: Mapping[str, int]
    """Completions by language of the problem."""
    left_out: Mapping[str, int]
    """Completions that are no candidates, by reason."""
    candidates: Sequence["Candidate"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A correct completion that a supervised pair can say."""

    place: int
    """Position in its batch."""
    problem_id: str
    language: str
    num_thought_tokens: int
    is_retokenised: bool


def batch_files(config: RunConfig, steps: Sequence[int]) -> list[BatchFile]:
    """Return the batch files of some steps."""
    run_dir, text = RunDir(config.run_dir), config.model_dump_json()
    return [BatchFile(path=run_dir.batch(step), step=step, config=text) for step in steps]


def survey_batches(files: Sequence[BatchFile]) -> Iterator[BatchSurvey]:
    """Yield the survey of each file in order, read by several processes where it is worth them.

    Raises:
        DataError: a file cannot be read, or is not from a rollout.
    """
    sizes = [file.num_mib for file in files]
    return map_parts(survey_batch, files, sizes, what="reading batches (MiB)", alone=ALONE_MIB)


def survey_batch(file: BatchFile) -> BatchSurvey:
    """Return the survey of one file."""
    batch, read = read_batch(file), trace_reader(file.config)
    sampled: collections.Counter[str] = collections.Counter()
    correct: collections.Counter[str] = collections.Counter()
    languages: collections.Counter[str] = collections.Counter()
    left_out: collections.Counter[str] = collections.Counter()
    candidates = []
    for place, sample in enumerate(batch.samples):
        problem_id, language = sample["problem_id"], problem_language(sample["problem"])
        sampled[problem_id] += 1
        languages[language] += 1
        if not is_paid(sample):
            left_out["not_correct"] += 1
            continue
        correct[problem_id] += 1
        if sample["finish_reason"] != "stop":
            left_out["cut_off"] += 1
            continue
        trace = read(sample["problem"], *ids_at(batch, place))
        if isinstance(trace, str):
            left_out[trace] += 1
            continue
        candidates.append(
            Candidate(
                place=place,
                problem_id=problem_id,
                language=language,
                num_thought_tokens=trace.num_thought_tokens,
                is_retokenised=trace.is_retokenised,
            )
        )
    return BatchSurvey(
        step=file.step,
        sampled=sampled,
        correct=correct,
        languages=languages,
        left_out=left_out,
        candidates=candidates,
    )


def is_paid(sample: Mapping[str, Any]) -> bool:
    """Return whether a completion was paid as correct, not only found so."""
    return bool(sample["correct"] and sample["format_ok"] and sample["reward"]["correctness"] > 0)


def read_batch(file: BatchFile) -> Batch:
    """Read a batch with its samples; DataError when it cannot be read or has none."""
    try:
        batch = load_batch(file.path)
    except BatchFileError as error:
        raise DataError(str(error)) from error
    if len(batch.samples) != batch.num_sequences:
        raise DataError(
            f"{file.path}: has {len(batch.samples)} samples for {batch.num_sequences} completions, "
            "so that nothing says which are correct; only batches of a rollout can be used"
        )
    return batch


def ids_at(batch: Batch, place: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the token ids of a prompt, and of its completion."""
    sequences = batch.sequences
    span = slice(sequences.offsets[place], sequences.offsets[place + 1])
    token_ids, mask = sequences.token_ids_T[span], sequences.loss_mask_T[span]
    return tuple(token_ids[~mask].tolist()), tuple(token_ids[mask].tolist())


def versions_at(batch: Batch, place: int) -> list[int]:
    """Return the policy versions that sampled a completion."""
    sequences = batch.sequences
    span = slice(sequences.offsets[place], sequences.offsets[place + 1])
    versions: list[int] = np.unique(
        batch.policy_versions_T[span][sequences.loss_mask_T[span]]
    ).tolist()
    return versions


@functools.lru_cache(maxsize=1)
def trace_reader(config_text: str) -> TraceReader:
    """Return the reader of a run, made once in each process."""
    config = resolve(json.loads(config_text))
    return TraceReader(config, load_tokenizer(config.model.path))


@functools.lru_cache(maxsize=_KEPT_LANGUAGES)
def problem_language(problem: str) -> str:
    """Return the language of a problem, whose completions stand together."""
    language = language_of(problem)
    return UNKNOWN_LANGUAGE if language is None else language
