"""Batch of completions: the only thing that crosses from rollout to learner.

A batch is independent of the learner's layout. On disk it is one safetensors file, renamed into
place.

Shape letters: N = sequences, T = tokens of all sequences end to end (prompt and completion).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from megatron_rl.errors import BatchFileError
from megatron_rl.run_dir import publish_atomically
from megatron_rl.sequences import SamplingSupport, Sequences
from megatron_rl.types import Cursor, Group

FORMAT_VERSION = 2
NO_VERSION = -1
"""Policy version of prompt tokens, which no policy sampled."""
# Version 1 has no sampling support; a batch without it is still written as one.
_WITHOUT_SUPPORT = 1
_OF_SEQUENCES = tuple(
    field.name for field in dataclasses.fields(Sequences) if field.name != "support"
)
_OF_SUPPORT = {"support_ids_K": "ids_K", "support_offsets": "offsets"}
_OF_BATCH = ("policy_versions_T", "groups_N", "minibatches_N")


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The completions of one learner step, as flat arrays.

    Example, for the two sequences in the example of :class:`Sequences` (T = 6, N = 2)::

        policy_versions_T [-1, -1, 4,    -1, 4, 5]
        groups_N          [7, 8]
        minibatches_N     [0, 0]
        cursor            Cursor(next_index=9)
    """

    sequences: Sequences
    policy_versions_T: NDArray[np.int32]
    """Version that sampled each token; NO_VERSION on the prompt."""
    groups_N: NDArray[np.int64]
    """Start index of the group each sequence belongs to."""
    minibatches_N: NDArray[np.int64]
    """Optimiser step of the batch that the sequence belongs to, from 0."""
    cursor: Cursor
    """The curriculum after this batch."""
    metrics: Mapping[str, float]
    """Metrics of the rollout program while it filled the batch."""
    samples: Sequence[Mapping[str, Any]]
    """Per sequence, for people: problem_id, problem, gold, answer, correct, format_ok,
    reason, reward (parts), finish_reason; source, where the problems are a mixture."""

    @property
    def num_sequences(self) -> int:
        """Number of sequences, N."""
        return self.sequences.num_sequences

    @property
    def num_minibatches(self) -> int:
        """Number of optimiser steps to take on this batch."""
        return int(self.minibatches_N.max()) + 1

    @property
    def oldest_version(self) -> int:
        """Oldest policy version that sampled a token of the batch."""
        return int(self.policy_versions_T[self.sequences.loss_mask_T].min())

    @property
    def newest_version(self) -> int:
        """Newest policy version that sampled a token of the batch."""
        return int(self.policy_versions_T[self.sequences.loss_mask_T].max())


def make_batch(
    groups: Sequence[Group],
    *,
    advantages_N: NDArray[np.float32],
    weights_N: NDArray[np.float32],
    minibatches_N: NDArray[np.int64],
    cursor: Cursor,
    metrics: Mapping[str, float],
) -> Batch:
    """Lay the samples of ``groups`` end to end, in order; N counts them all."""
    members = [(group, sample) for group in groups for sample in group.samples]
    prompts = [len(group.prompt_ids) for group, _ in members]
    completions = [sample.completion for _, sample in members]
    lengths = [p + len(c.token_ids) for p, c in zip(prompts, completions, strict=True)]
    token_ids = [[*g.prompt_ids, *s.completion.token_ids] for g, s in members]
    return Batch(
        sequences=Sequences(
            token_ids_T=_flatten(token_ids, np.int64),
            offsets=np.cumsum([0, *lengths], dtype=np.int64),
            loss_mask_T=_after_prompt(
                prompts, [[True] * len(c.token_ids) for c in completions], False, "?"
            ),
            behavior_logprobs_T=_after_prompt(prompts, [c.logprobs for c in completions], 0, "f4"),
            advantages_N=advantages_N,
            weights_N=weights_N,
            support=joined_support(prompts, [c.support for c in completions]),
        ),
        policy_versions_T=_after_prompt(
            prompts, [c.policy_versions for c in completions], NO_VERSION, "i4"
        ),
        groups_N=np.array([group.index for group, _ in members], dtype=np.int64),
        minibatches_N=minibatches_N,
        cursor=cursor,
        metrics=metrics,
        samples=[_describe(group, sample) for group, sample in members],
    )


def save_batch(path: Path, batch: Batch) -> None:
    """Write the batch so that a reader sees all of it or no file."""
    arrays = {name: np.ascontiguousarray(getattr(batch.sequences, name)) for name in _OF_SEQUENCES}
    arrays |= {name: np.ascontiguousarray(getattr(batch, name)) for name in _OF_BATCH}
    support, version = batch.sequences.support, _WITHOUT_SUPPORT
    if support is not None:
        arrays |= {name: getattr(support, field) for name, field in _OF_SUPPORT.items()}
        version = FORMAT_VERSION
    header = {
        "format_version": str(version),
        "cursor": json.dumps([batch.cursor.next_index, list(batch.cursor.outstanding)]),
        "metrics": json.dumps(dict(batch.metrics)),
        "samples": json.dumps([dict(sample) for sample in batch.samples]),
    }
    publish_atomically(path, save(arrays, metadata=header))


def load_batch(path: Path) -> Batch:
    """Read a batch; BatchFileError when the file is missing, damaged or of another version."""
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata()
            version = None if header is None else header["format_version"]
            names = [*_OF_SEQUENCES, *_OF_BATCH]
            if version == str(FORMAT_VERSION):
                names += _OF_SUPPORT
            arrays = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise BatchFileError(f"{path}: cannot be read as a batch: {error}") from error
    check_format(version, path)
    support = None
    if version == str(FORMAT_VERSION):
        support = SamplingSupport(**{field: arrays[name] for name, field in _OF_SUPPORT.items()})
    next_index, outstanding = json.loads(header["cursor"])
    return Batch(
        sequences=Sequences(**{name: arrays[name] for name in _OF_SEQUENCES}, support=support),
        **{name: arrays[name] for name in _OF_BATCH},
        cursor=Cursor(next_index=next_index, outstanding=tuple(outstanding)),
        metrics=json.loads(header["metrics"]),
        samples=json.loads(header["samples"]),
    )


def check_format(version: str | None, path: Path) -> None:
    """Raise BatchFileError for a ``format_version`` that is not read here."""
    if version not in (str(_WITHOUT_SUPPORT), str(FORMAT_VERSION)):
        raise BatchFileError(
            f"{path}: batch format {version}, this version reads {_WITHOUT_SUPPORT} and "
            f"{FORMAT_VERSION}"
        )


def _flatten(rows: Sequence[Sequence[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.asarray(row, dtype=dtype) for row in rows])


def _after_prompt(
    prompts: Sequence[int], rows: Sequence[Sequence[Any]], fill: Any, dtype: str
) -> NDArray[Any]:
    return _flatten(
        [[*([fill] * prompt), *row] for prompt, row in zip(prompts, rows, strict=True)], dtype
    )


def joined_support(
    prompts: Sequence[int], completions: Sequence[SamplingSupport | None]
) -> SamplingSupport | None:
    """Return the support of all tokens, that of prompts being the whole vocabulary."""
    if all(support is None for support in completions):
        return None
    parts = []
    for prompt, support in zip(prompts, completions, strict=True):
        assert support is not None, "all completions of a batch are sampled alike"
        parts += [SamplingSupport.whole(prompt), support]
    return SamplingSupport.joined(parts)


def _describe(group: Group, sample: Any) -> dict[str, Any]:
    source = {"source": group.source} if group.source else {}
    return source | {
        "problem_id": group.problem.id,
        "problem": group.problem.text,
        "gold": group.problem.answer,
        "answer": sample.verdict.answer,
        "correct": sample.verdict.correct,
        "format_ok": sample.verdict.format_ok,
        "reason": sample.verdict.reason,
        "reward": dict(sample.reward.parts),
        "finish_reason": sample.completion.finish_reason,
    }
