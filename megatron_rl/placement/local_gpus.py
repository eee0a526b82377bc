"""GPU assignment of the local programs. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_rl.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalRoles:
    """The GPUs of every learner rank and of every server, by identifier."""

    learners: tuple[str, ...]
    servers: tuple[tuple[str, ...], ...]

    @property
    def shares(self) -> bool:
        """Whether a learner rank and a server, or two of a kind, use one GPU."""
        used = [*self.learners, *(gpu for server in self.servers for gpu in server)]
        return len(set(used)) < len(used)


def assign_gpus(
    gpus: Sequence[str], *, num_learners: int, num_servers: int, server_tp: int
) -> LocalRoles:
    """Give each learner rank a GPU and each server ``server_tp``, going round when they run out.

    A server can share a GPU with a learner rank or with another server. The ranks of one NCCL group
    cannot, and both the learner's and a server's own are one.

    Args:
        gpus: identifiers as in CUDA_VISIBLE_DEVICES; at least one.
        num_learners: learner ranks.
        num_servers: servers.
        server_tp: GPUs of one server.

    Raises:
        ConfigError: the learner, or one server, has more ranks than there are GPUs.
    """
    assert gpus
    for key, ranks in (("learner.num_processes", num_learners), ("generators.tp", server_tp)):
        if ranks > len(gpus):
            raise ConfigError(
                f"{key} ({ranks}) must be <= {len(gpus)}, the GPUs of this machine "
                f"({','.join(gpus)}), since NCCL does not connect two ranks on one GPU; lower it, "
                "or set CUDA_VISIBLE_DEVICES to nothing to compute on the CPU"
            )
    turn = [gpus[i % len(gpus)] for i in range(num_learners + num_servers * server_tp)]
    rest = turn[num_learners:]
    return LocalRoles(
        learners=tuple(turn[:num_learners]),
        servers=tuple(tuple(rest[i * server_tp : (i + 1) * server_tp]) for i in range(num_servers)),
    )
