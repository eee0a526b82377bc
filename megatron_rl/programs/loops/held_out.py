"""Held-out sets of a run: their problems, checked before anything starts, and evaluations."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_rl.config import HeldOutSet, RunConfig, held_out_sets
from megatron_rl.errors import ConfigError
from megatron_rl.evaluate import EvaluationResult, SampleFile, evaluate
from megatron_rl.programs.builders.inference import Sampler
from megatron_rl.programs.builders.prompts import PromptSet, held_out_source, load_run_prompts
from megatron_rl.types import Problem

_USUAL_FIELD = "language"
_MOST_PARTS = 50
_MOST_LABEL_CHARS = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedSet:
    """A held-out set with its problems."""

    settings: HeldOutSet
    prompts: PromptSet
    split_by: str
    """Field that scores are split by."""
    labels: Sequence[str | None]
    """Its value of each problem; None for problems that have none."""

    def __str__(self) -> str:
        """Return what an evaluation asks, for people."""
        parts = Counter(label for label in self.labels if label is not None)
        split = ", ".join(f"{label} {count}" for label, count in sorted(parts.items()))
        asked = self.settings.describe(num_problems=len(self.prompts.problems))
        return asked + (f"; by {self.split_by}: {split}" if parts else "")


def load_held_out(config: RunConfig, tokenizer: Any) -> list[LoadedSet]:
    """Check and open every held-out set of a run; raises as :func:`load_set` does."""
    return [load_set(config, held_out, tokenizer) for held_out in held_out_sets(config)]


def load_set(config: RunConfig, held_out: HeldOutSet, tokenizer: Any) -> LoadedSet:
    """Check and open the problems of a held-out set.

    Raises:
        DataError, ModelError: as :func:`load_run_prompts`.
        ConfigError: as well, and the problems cannot be split as is asked.
    """
    prompts = load_run_prompts(config, held_out_source(held_out), tokenizer)
    field = _USUAL_FIELD if held_out.split_by is None else held_out.split_by
    labels = [_label_of(problem, field) for problem in prompts.problems]
    _check_parts(held_out, field, labels)
    return LoadedSet(settings=held_out, prompts=prompts, split_by=field, labels=labels)


async def evaluate_set(
    held_out: LoadedSet, sampler: Sampler, samples: Path | None, version: int, policy: str = ""
) -> EvaluationResult:
    """Evaluate whatever the servers serve now on a set.

    Args:
        held_out: the set.
        sampler: settings that all evaluations share.
        samples: file of the samples, from which an interrupted evaluation goes on; None for none.
        version: policy version that is evaluated.
        policy: what is evaluated, where the version alone does not say it.
    """
    prompts, settings = held_out.prompts, held_out.settings
    file = None if samples is None else _sample_file(held_out, samples, version, policy)
    return await evaluate(
        prompts.problems,
        prompts.prompts,
        sampler.settings(settings),
        split_by=held_out.split_by,
        labels=held_out.labels,
        known=None if file is None else file.known(),
        keep=(lambda position, score: None) if file is None else file.keep,
    )


def with_num_samples(held_out: HeldOutSet, num_samples: int | None) -> HeldOutSet:
    """Return the set with the number of samples of the command line, if that is given."""
    return held_out if num_samples is None else replace(held_out, num_samples=num_samples)


def _sample_file(held_out: LoadedSet, path: Path, version: int, policy: str) -> SampleFile:
    prompts, settings = held_out.prompts, held_out.settings
    first = json.dumps(prompts.prompts[0])
    return SampleFile(
        path,
        problems=prompts.problems,
        settings={
            "policy": policy,
            "num_samples": settings.num_samples,
            "sampling_params": settings.sampling_params,
            # System prompt and chat template show in any prompt.
            "first_prompt": hashlib.sha256(first.encode()).hexdigest()[:16],
        },
        num_samples=settings.num_samples,
        version=version,
    )


def _label_of(problem: Problem, field: str) -> str | None:
    value = problem.extra[field] if field in problem.extra else None
    is_label = isinstance(value, str) and 0 < len(value.strip()) <= _MOST_LABEL_CHARS
    return value.strip() if is_label else None


def _check_parts(held_out: HeldOutSet, field: str, labels: Sequence[str | None]) -> None:
    """Refuse a field that no problem has, or that has a value of its own for each."""
    parts = {label for label in labels if label is not None}
    where = "evaluation" if held_out.name is None else f"evaluation.sets.{held_out.name}"
    if held_out.split_by and not parts:
        raise ConfigError(
            f'{where}.split_by ("{field}") must be a field of the problems of {held_out.path}, '
            f"a text of up to {_MOST_LABEL_CHARS} characters; name another, list the column in "
            'columns.extra, or set it to "" for no split'
        )
    if len(parts) > _MOST_PARTS:
        raise ConfigError(
            f'{where}.split_by ("{field}") must split the problems of {held_out.path} into '
            f"{_MOST_PARTS} parts at most, not {len(parts)}: each has metrics of its own; name "
            'another field, or set it to "" for no split'
        )
