"""Ranks of one machine: the variables by which its processes find each other."""

import os

from megatron_rl.placement.gpu_environment import LEARNER_DEFAULTS


def rank_environment(rank: int, size: int, port: int) -> dict[str, str]:
    """Return the variables of one of ``size`` ranks that meet at a port of this machine."""
    wanted = {"GLOO_SOCKET_IFNAME": "lo", **LEARNER_DEFAULTS}
    return {name: value for name, value in wanted.items() if name not in os.environ} | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
