"""Evaluation of a policy on problems with known answers: samples, verdicts, scores."""

from megatron_rl.evaluate.sample_file import SampleFile
from megatron_rl.evaluate.scores import EvaluationResult, ProblemScore, evaluate
from megatron_rl.evaluate.scoring import EvaluationSettings, ScoredSample, score_problems

__all__ = [
    "EvaluationResult",
    "EvaluationSettings",
    "ProblemScore",
    "SampleFile",
    "ScoredSample",
    "evaluate",
    "score_problems",
]
