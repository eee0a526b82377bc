"""Evaluation scores on held-out problems: pass@k and majority vote, each with its standard error.

One evaluation is a mean over problems, each counting the same; its standard error says how far
another draw of as many problems and samples would be off.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from megatron_rl.algorithm.pass_at_k import (
    Votes,
    majority_at_k,
    pass_at_k,
    powers_up_to,
    standard_error,
)
from megatron_rl.errors import VerifierError
from megatron_rl.evaluate.scoring import EvaluationSettings, ScoredSample, score_problems
from megatron_rl.evaluate.votes import count_votes
from megatron_rl.types import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemScore:
    """Samples of one problem that have a verdict, and what they voted."""

    samples: Sequence[ScoredSample]
    votes: Votes


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Mean over problems."""

    mean: float
    stderr: float | None
    """Standard error; None for a single problem."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartScores:
    """Scores of some of the problems, such as those in one language."""

    num_problems: int
    pass_at: Mapping[int, Score]
    """By number of samples: powers of two, and all that were drawn."""
    majority_at: Mapping[int, Score]
    """The same of the majority vote."""
    length_mean: float
    """Mean completion length, tokens."""
    truncated: float
    """Share of completions that were cut off at their maximum length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """Scores of one evaluation; means over problems, each problem counting the same."""

    scores: PartScores
    """Of all problems with at least one verdict."""
    parts: Mapping[str, PartScores]
    """Of the problems of each value of the field that they are split by."""
    split_by: str
    """Name of that field."""
    num_samples: int
    """Completions with a verdict."""
    num_errors: int
    """Completions that took too long or got no verdict; they count as neither right nor wrong."""
    num_kept: int
    """Completions that an interrupted attempt at this evaluation had drawn."""
    k: int
    """Completions drawn per problem."""
    format: float
    """Share of completions that are well-formed."""
    version_mean: float
    """Mean policy version of the judged tokens; a policy in training is updated meanwhile."""
    version_oldest: int
    version_newest: int
    seconds: float
    """Duration of the evaluation."""

    def record(self) -> dict[str, float]:
        """Return the scores under the names of ``evaluations.jsonl``."""
        record = {
            "problems": self.scores.num_problems,
            "samples": self.num_samples,
            "errors": self.num_errors,
            "kept": self.num_kept,
            "k": self.k,
            **dict(_named(self.scores, self.k)),
            "format": self.format,
            "length_mean": self.scores.length_mean,
            "truncated": self.scores.truncated,
            "version_mean": self.version_mean,
            "version_oldest": self.version_oldest,
            "version_newest": self.version_newest,
            "seconds": self.seconds,
        }
        for value, part in self.parts.items():
            numbers = {
                "problems": part.num_problems,
                **dict(_named(part, self.k)),
                "length_mean": part.length_mean,
                "truncated": part.truncated,
            }
            record |= {f"{self.split_by}/{value}/{name}": n for name, n in numbers.items()}
        return record


async def evaluate(
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    settings: EvaluationSettings,
    *,
    split_by: str = "",
    labels: Sequence[str | None] = (),
    known: Mapping[int, ProblemScore] | None = None,
    keep: Callable[[int, ProblemScore], None] = lambda position, score: None,
    clock: Callable[[], float] = time.monotonic,
) -> EvaluationResult:
    """Draw ``settings.num_samples`` completions of every problem and score them.

    Args:
        problems: the held-out problems.
        prompts: prompt token ids of each problem.
        settings: sampling, judge and number of samples.
        split_by: name of the field whose values are ``labels``.
        labels: value of each problem by which scores are given too, None for none; or empty.
        known: scores of some problems, by position, which are not sampled again.
        keep: takes the score of each problem as soon as it is known.
        clock: seconds.

    Raises:
        VerifierError: not a single completion could be judged, or all were empty.
    """
    started = clock()
    before = {} if known is None else known
    by_problem = dict(before)
    missing = [position for position in range(len(problems)) if position not in by_problem]
    scored = score_problems(
        [problems[position] for position in missing],
        [prompts[position] for position in missing],
        settings,
    )
    async with contextlib.aclosing(scored):
        async for place, samples in scored:
            position = missing[place]
            verdicts = [sample.verdict for sample in samples]
            votes = await count_votes(problems[position], verdicts, settings.judge)
            by_problem[position] = ProblemScore(samples=samples, votes=votes)
            keep(position, by_problem[position])
    return summarize(
        [by_problem[position] for position in range(len(problems))],
        labels=labels or [None] * len(problems),
        split_by=split_by,
        num_kept=sum(len(score.samples) for score in before.values()),
        num_samples=settings.num_samples,
        seconds=clock() - started,
    )


def summarize(
    by_problem: Sequence[ProblemScore],
    *,
    labels: Sequence[str | None],
    split_by: str,
    num_kept: int,
    num_samples: int,
    seconds: float,
) -> EvaluationResult:
    """Score the samples of each problem; see :class:`EvaluationResult`.

    A problem that lost samples to verifier errors has its pass@k from those that are left.
    """
    judged = [score for score in by_problem if score.samples]
    if not judged:
        raise VerifierError(f"evaluation of {len(by_problem)} problems: no verdict at all")
    everything = [sample for score in judged for sample in score.samples]
    versions = sum((sample.versions for sample in everything), Counter())
    if not versions:
        raise VerifierError(f"evaluation of {len(by_problem)} problems: not a single token")
    split: dict[str, list[ProblemScore]] = {}
    for score, label in zip(by_problem, labels, strict=True):
        if label is not None and score.samples:
            split.setdefault(label, []).append(score)
    return EvaluationResult(
        scores=_scores_of(judged, num_samples),
        parts={label: _scores_of(part, num_samples) for label, part in sorted(split.items())},
        split_by=split_by,
        num_samples=len(everything),
        num_errors=len(by_problem) * num_samples - len(everything),
        num_kept=num_kept,
        k=num_samples,
        format=fmean(sample.verdict.format_ok for sample in everything),
        version_mean=sum(v * n for v, n in versions.items()) / versions.total(),
        version_oldest=min(versions),
        version_newest=max(versions),
        seconds=seconds,
    )


def _scores_of(judged: Sequence[ProblemScore], num_samples: int) -> PartScores:
    counts = [
        (len(score.samples), sum(sample.verdict.correct for sample in score.samples))
        for score in judged
    ]
    everything = [sample for score in judged for sample in score.samples]
    sizes = powers_up_to(num_samples)
    return PartScores(
        num_problems=len(judged),
        pass_at={k: _score([pass_at_k(n, c, min(k, n)) for n, c in counts]) for k in sizes},
        majority_at={
            k: _score([majority_at_k(s.votes, min(k, s.votes.total)) for s in judged])
            for k in sizes
        },
        length_mean=fmean(sample.length for sample in everything),
        truncated=fmean(sample.is_truncated for sample in everything),
    )


def _score(values: Sequence[float]) -> Score:
    return Score(mean=fmean(values), stderr=standard_error(values))


def _named(scores: PartScores, k: int) -> Iterator[tuple[str, float]]:
    """Yield the name and the number of each score: pass@1, and those of k and of powers of two."""
    shown: dict[str, Score] = {"pass@1": scores.pass_at[1]}
    shown |= {"pass@k": scores.pass_at[k], "maj@k": scores.majority_at[k]}
    for size in scores.pass_at:
        if size > 1:
            shown |= {f"pass@{size}": scores.pass_at[size]}
            shown |= {f"maj@{size}": scores.majority_at[size]}
    for name, score in shown.items():
        yield name, score.mean
        if score.stderr is not None:
            yield f"{name}_stderr", score.stderr
