"""Tolerances of figures that several stages measure, each with the reason for its value."""

from megatron_rl.programs.stage_runs.result import Limit

LOGPROB_MEAN = Limit(
    at_most=0.05,
    reason="bf16 keeps 8 bits: on a CPU, 28 layers were off from float32 by 0.01 on average, and "
    "two ways to compute them are each off; a wrong weight, position or mask is off by half and "
    "more",
)
LOGPROB_MAX = Limit(
    at_most=0.5,
    reason="the worst of some thousand tokens lies within ten times the mean; a single wrong token "
    "is off by more",
)
LEARNT = Limit(
    at_most=-0.1,
    reason="eight steps on the same few sequences lower the loss by several tenths; a gradient of "
    "the wrong sign or none does not",
)
NONE_LOST = Limit(at_most=0, reason="an update in flight ends no sequence")
