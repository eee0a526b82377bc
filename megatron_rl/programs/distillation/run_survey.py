"""Survey of a whole run: the candidates of all its batch files as arrays.

Shape letters: C = candidates, P = problems, L = languages.
"""

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megatron_rl.algorithm.trace_selection import Candidates, Integers
from megatron_rl.programs.distillation.batch_survey import BatchSurvey


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSurvey:
    """Candidates of a run, in the order of its steps, and what is counted beside them."""

    candidates: Candidates
    places_C: Integers
    """Position of each in its batch."""
    is_retokenised_C: NDArray[np.bool_]
    pass_rates_P: NDArray[np.float64]
    languages: tuple[str, ...]
    language_counts_L: Integers
    """Completions of each language in the batches that traces are taken from."""
    left_out: Mapping[str, int]
    """Completions that are no candidates, by reason."""
    num_batches: int
    num_completions: int


def gather(surveys: Iterable[BatchSurvey], *, from_step: int) -> RunSurvey:
    """Return the survey of a run, of which one batch after the other is in memory.

    Args:
        surveys: of its batch files, in order.
        from_step: first step whose completions count for the shares of languages.
    """
    problems, languages = _Numbers(), _Numbers()
    sampled: collections.Counter[int] = collections.Counter()
    correct: collections.Counter[int] = collections.Counter()
    spoken: collections.Counter[int] = collections.Counter()
    left_out: collections.Counter[str] = collections.Counter()
    columns: list[NDArray[np.int64]] = []
    num_batches = 0
    for survey in surveys:
        num_batches += 1
        for problem_id, count in survey.sampled.items():
            sampled[problems.of(problem_id)] += count
        for problem_id, count in survey.correct.items():
            correct[problems.of(problem_id)] += count
        for language, count in survey.languages.items():
            spoken[languages.of(language)] += count if survey.step >= from_step else 0
        left_out.update(survey.left_out)
        rows = [
            (
                survey.step,
                candidate.place,
                problems.of(candidate.problem_id),
                languages.of(candidate.language),
                candidate.num_thought_tokens,
                int(candidate.is_retokenised),
            )
            for candidate in survey.candidates
        ]
        columns.append(np.array(rows, dtype=np.int64).reshape(-1, 6))
    steps, places, problems_C, languages_C, lengths, is_retokenised = np.concatenate(columns).T
    return RunSurvey(
        candidates=Candidates(
            steps_C=steps, problems_C=problems_C, lengths_C=lengths, languages_C=languages_C
        ),
        places_C=places,
        is_retokenised_C=is_retokenised.astype(bool),
        pass_rates_P=np.array([correct[i] / sampled[i] for i in range(len(problems))]),
        languages=tuple(languages),
        language_counts_L=np.array([spoken[i] for i in range(len(languages))], dtype=np.int64),
        left_out=left_out,
        num_batches=num_batches,
        num_completions=sum(sampled.values()),
    )


class _Numbers(dict[str, int]):
    """Numbers of names, from 0 in the order in which they are first asked for."""

    def of(self, name: str) -> int:
        """Return the number of a name."""
        return self.setdefault(name, len(self))
