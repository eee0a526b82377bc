"""Faults of a process group over NCCL, kept from ending the learner.

A learner goes on when a broadcast to its servers fails. Torch would end the process: the watchdog
of the group throws into no one's hands, and 8 minutes later the heartbeat monitor of the default
group finds that a group has failed.
"""

import logging
from collections.abc import MutableMapping

import torch.distributed as dist
from torch.distributed import distributed_c10d

logger = logging.getLogger(__name__)

_LEFT_TO_US = {
    # The watchdog notes a failure and throws nothing.
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "0",
    # It sleeps four times this before it goes on, and closing the group waits for it.
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "0",
}


def leave_nccl_faults_to_us(environment: MutableMapping[str, str]) -> None:
    """Let groups over NCCL that are built from now on fail without ending the process.

    Torch reads the environment when it builds a group. The learner's own groups are built before,
    and end the process as they should. The rest of it is TORCH_NCCL_DUMP_ON_TIMEOUT, which the
    default group reads, see placement.gpu_environment.
    """
    environment.update(_LEFT_TO_US)


def end_group(group: dist.ProcessGroup) -> bool:
    """Destroy our side of a group; return False where NCCL fails at it. Never raises."""
    try:
        dist.destroy_process_group(group)
    except RuntimeError as error:
        logger.warning("a group of a weight update did not end: %s", str(error))
        forget_group(group)
        return False
    return True


def abort_group(group: dist.ProcessGroup) -> None:
    """End a broken group's operations without waiting for them; NCCL may give up. Never raises."""
    try:
        group.abort()
    except RuntimeError as error:
        logger.warning("a group of a weight update could not be aborted: %s", str(error))


def forget_group(group: dist.ProcessGroup) -> None:
    """Leave a group out when torch destroys all groups, which might wait for it for ever."""
    distributed_c10d._cleanup_process_group_global_state(group)
