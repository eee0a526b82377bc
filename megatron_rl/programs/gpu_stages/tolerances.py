"""Tolerances of figures that several stages measure, each with the reason for its value."""

from numpy.typing import NDArray

from megatron_rl.programs.stage_runs.result import Figure, Limit

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


def logprobs_after_updates(errors: NDArray) -> list[Figure]:
    """Return the differences of log-probs of learner and server, with their tolerances.

    Args:
        errors: of each token sampled with the last weights; nan, which no limit allows, for none.
    """
    return [
        Figure(
            name="log-probs after the last update, mean difference",
            value=float(errors.mean()) if errors.size else float("nan"),
            limit=LOGPROB_MEAN,
        ),
        Figure(
            name="log-probs after the last update, largest difference",
            value=float(errors.max()) if errors.size else float("nan"),
            limit=LOGPROB_MAX,
        ),
    ]
