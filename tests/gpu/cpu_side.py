"""The host's half of a checkpoint that travels: ``cpu_side.py write|read MODEL CHECKPOINTS OUT``.

Run without visible GPUs. ``write`` takes a step and saves; ``read`` restores what a GPU saved. Both
leave log-probs and weights in OUT.
"""

import sys
from pathlib import Path

import torch

from megatron_rl.learner.device.parallel import RankInfo, initialize_parallel, shut_down_parallel
from megatron_rl.learner.device.platform import CpuPlatform
from megatron_rl.programs.gpu_stages.learning.layouts import ALONE
from megatron_rl.programs.gpu_stages.learning.policy import learner_of, make_sequences


def main(action: str, model: Path, checkpoints: Path, out: Path) -> None:
    platform = CpuPlatform(num_threads=1)
    platform.install()
    place = RankInfo(rank=0, world_size=1, local_rank=0)
    parallel = initialize_parallel(place, platform, ALONE, seed=0)
    learner, sequences = learner_of(model, parallel, platform), make_sequences()
    if action == "write":
        learner.update_supervised(sequences)
        learner.save(checkpoints, 1, extra={"by": "host"})
    else:
        assert learner.restore(checkpoints) == (2, {"by": "gpu"})
    logprobs = torch.cat(learner.logprobs(sequences))
    weights = {name: weight.clone() for name, weight in learner.named_weights()}
    torch.save({"logprobs": logprobs, "weights": weights}, out)
    shut_down_parallel()


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
