"""Evaluation of a policy on problems with known answers: samples, verdicts, scores."""

from megatron_rl.evaluate.scores import EvaluationResult, evaluate, summarize
from megatron_rl.evaluate.scoring import EvaluationSettings, ScoredSample, score_problems

__all__ = [
    "EvaluationResult",
    "EvaluationSettings",
    "ScoredSample",
    "evaluate",
    "score_problems",
    "summarize",
]
