"""Everything an objective may have, and batches that exercise all of it."""

import numpy as np
from tiny_policy import with_sequences

from megatron_rl.algorithm.losses import Correction, PolicyObjective
from megatron_rl.batch import Batch
from megatron_rl.learner.learner import Learner

OBJECTIVE = PolicyObjective(
    loss="gspo",
    clip_low=0.01,
    clip_high=0.01,
    log_ratio_bound=20.0,
    correction=Correction(name="tis", level="sequence", low=0.0, high=2.0),
    kl_coefficient=0.1,
    entropy_coefficient=0.05,
)


def from_nearby(learner: Learner, batch: Batch) -> Batch:
    """Let a generator near the learner report the log-probs, as ratios of sequences need."""
    rows = learner.logprobs(batch.sequences)
    logprobs_T = np.concatenate([[0.0, *row.tolist()] for row in rows])
    noise_T = np.random.default_rng(0).normal(0.0, 0.3, len(logprobs_T))
    behavior_T = np.where(batch.sequences.loss_mask_T, logprobs_T + noise_T, 0.0).astype(np.float32)
    return with_sequences(batch, behavior_logprobs_T=behavior_T)
