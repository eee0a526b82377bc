"""Losses as weighted sums. Pure functions: tensors in, a scalar and metrics out.

Token weights are normalised beforehand (``algorithm.advantages.token_weights``), so summing the
results over rows and ranks gives the minibatch's value; no denominator is needed.
"""

from megatron_rl.algorithm.losses.corrections import CORRECTIONS, Correction
from megatron_rl.algorithm.losses.objective import PolicyObjective, policy_objective
from megatron_rl.algorithm.losses.sequences import SumOverSequence, sum_over_sequence
from megatron_rl.algorithm.losses.supervised import negative_log_likelihood
from megatron_rl.algorithm.losses.surrogates import LOSSES

__all__ = [
    "CORRECTIONS",
    "LOSSES",
    "Correction",
    "PolicyObjective",
    "SumOverSequence",
    "negative_log_likelihood",
    "policy_objective",
    "sum_over_sequence",
]
