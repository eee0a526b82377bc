"""``megatron-rl score-batch``: a rank of the learner that scores one recorded batch and ends.

``check`` starts it; people have no use for it.
"""

import argparse

import numpy as np

from megatron_rl.batch import load_batch
from megatron_rl.config import RunConfig
from megatron_rl.learner.device.parallel import shut_down_parallel
from megatron_rl.programs.builders.learner import open_learner
from megatron_rl.programs.builders.model import first_weights
from megatron_rl.programs.checks.compare_with_learner import SCORES
from megatron_rl.run_dir import RunDir, write_json


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Compare log-probs of the batch with those that it holds; the first rank writes the result.

    Raises:
        ConfigError: this rank's device cannot do what is configured.
        BatchFileError: the batch is missing or damaged.
    """
    run_dir = RunDir(config.run_dir)
    learner, parallel, _ = open_learner(
        config,
        config.learner.optimizer,
        objective=None,
        pretrained=first_weights(config),
        temperature=config.generators.sampling.temperature,
        total_steps=1,
    )
    sequences = load_batch(run_dir.batch(0)).sequences
    rows = learner.logprobs(sequences)
    # The first token of a sequence has nothing before it.
    ours_T = np.concatenate([[0.0, *row.double().tolist()] for row in rows])
    mask_T = sequences.loss_mask_T
    differences = np.abs(ours_T - sequences.behavior_logprobs_T)[mask_T]
    if parallel.is_first:
        scores = {
            "num_tokens": int(mask_T.sum()),
            "mean": float(differences.mean()),
            "largest": float(differences.max()),
        }
        write_json(config.run_dir / SCORES, scores)
    shut_down_parallel()
    return 0
