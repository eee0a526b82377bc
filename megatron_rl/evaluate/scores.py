"""Evaluation scores on held-out problems: pass@1, pass@k, majority vote."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_rl.algorithm.pass_at_k import majority_is_correct, pass_at_k
from megatron_rl.errors import VerifierError
from megatron_rl.evaluate.scoring import EvaluationSettings, ScoredSample, score_problems
from megatron_rl.types import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """Scores of one evaluation; means over problems, each problem counting the same."""

    num_problems: int
    """Problems with at least one verdict; only these are scored."""
    num_samples: int
    """Completions with a verdict."""
    num_errors: int
    """Completions that took too long or got no verdict; they count as neither right nor wrong."""
    k: int
    """Completions drawn per problem."""
    pass_at_1: float
    pass_at_k: float
    majority_at_k: float
    format: float
    """Share of completions that are well-formed."""
    length_mean: float
    """Mean completion length, tokens."""
    version_mean: float
    """Mean policy version of the judged tokens; a policy in training is updated meanwhile."""
    version_oldest: int
    version_newest: int
    seconds: float
    """Duration of the evaluation."""

    def record(self) -> dict[str, float]:
        """Return the scores under the names of ``evaluations.jsonl``."""
        return {
            "problems": self.num_problems,
            "samples": self.num_samples,
            "errors": self.num_errors,
            "k": self.k,
            "pass@1": self.pass_at_1,
            "pass@k": self.pass_at_k,
            "maj@k": self.majority_at_k,
            "format": self.format,
            "length_mean": self.length_mean,
            "version_mean": self.version_mean,
            "version_oldest": self.version_oldest,
            "version_newest": self.version_newest,
            "seconds": self.seconds,
        }


async def evaluate(
    problems: Sequence[Problem],
    prompts: Sequence[Sequence[int]],
    settings: EvaluationSettings,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> EvaluationResult:
    """Draw ``settings.num_samples`` completions of every problem and score them.

    Args:
        problems: the held-out problems.
        prompts: prompt token ids of each problem.
        settings: sampling, judge and number of samples.
        clock: seconds.

    Raises:
        VerifierError: not a single completion could be judged, or all were empty.
    """
    started = clock()
    by_problem: list[Sequence[ScoredSample]] = [()] * len(problems)
    async with contextlib.aclosing(score_problems(problems, prompts, settings)) as scored:
        async for position, samples in scored:
            by_problem[position] = samples
    return summarize(by_problem, num_samples=settings.num_samples, seconds=clock() - started)


def summarize(
    by_problem: Sequence[Sequence[ScoredSample]], *, num_samples: int, seconds: float
) -> EvaluationResult:
    """Score the samples of each problem; see :class:`EvaluationResult`.

    A problem that lost samples to verifier errors has its pass@k from those that are left.
    """
    judged = [samples for samples in by_problem if samples]
    if not judged:
        raise VerifierError(f"evaluation of {len(by_problem)} problems: no verdict at all")
    everything = [sample for samples in judged for sample in samples]
    versions = sum((sample.versions for sample in everything), Counter())
    if not versions:
        raise VerifierError(f"evaluation of {len(by_problem)} problems: not a single token")
    counts = [(len(s), sum(sample.verdict.correct for sample in s)) for s in judged]
    return EvaluationResult(
        num_problems=len(judged),
        num_samples=len(everything),
        num_errors=len(by_problem) * num_samples - len(everything),
        k=num_samples,
        pass_at_1=_mean([pass_at_k(n, c, 1) for n, c in counts]),
        pass_at_k=_mean([pass_at_k(n, c, min(num_samples, n)) for n, c in counts]),
        majority_at_k=_mean(
            [
                majority_is_correct(
                    [sample.verdict.answer for sample in samples],
                    [sample.verdict.correct for sample in samples],
                )
                for samples in judged
            ]
        ),
        format=_mean([sample.verdict.format_ok for sample in everything]),
        length_mean=_mean([sample.length for sample in everything]),
        version_mean=sum(v * n for v, n in versions.items()) / versions.total(),
        version_oldest=min(versions),
        version_newest=max(versions),
        seconds=seconds,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
