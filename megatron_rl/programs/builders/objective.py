"""Policy objective of [algorithm], with the defaults of the loss's paper."""

from megatron_rl.algorithm.losses import Correction, PolicyObjective
from megatron_rl.config import AlgorithmConfig, correction_bounds, loss_settings


def objective_of(algorithm: AlgorithmConfig) -> PolicyObjective:
    """Return what the learner maximises."""
    settings, bounds = loss_settings(algorithm), correction_bounds(algorithm)
    return PolicyObjective(
        loss=algorithm.loss,
        clip_low=settings.clip_low,
        clip_high=settings.clip_high,
        log_ratio_bound=algorithm.log_ratio_bound,
        correction=None
        if bounds is None
        else Correction(
            name=algorithm.correction,
            level=algorithm.correction_level,
            low=bounds.low,
            high=bounds.high,
        ),
        kl_coefficient=algorithm.kl_coefficient,
        entropy_coefficient=algorithm.entropy_coefficient,
    )
