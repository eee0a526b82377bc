"""Environment in which CUDA and NCCL start, for learner ranks and for servers. Pure.

These are defaults: a value of the user's own environment, or of launch.env, wins on both sides.
"""

from collections.abc import Mapping
from types import MappingProxyType

NCCL_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {"NCCL_CUMEM_ENABLE": "0", "NCCL_NVLS_ENABLE": "0"}
)
"""Settings of NCCL that learner and servers must share, since they broadcast weights in one group.

How a process lends GPU memory to its neighbours on the node, NCCL decides by the process's own
settings. SGLang sets both of these to 0 unless they are set (``_set_envs_and_config``). Left to
itself, NCCL would choose otherwise for the learner, whose memory the servers could not open.
"""

LEARNER_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        **NCCL_DEFAULTS,
        # Megatron overlaps communication with compute by relying on a single hardware queue. SGLang
        # sets a number of its own, whatever it finds.
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        # Otherwise torch ends the learner 8 minutes after any of its groups has failed, also one
        # with servers, which the learner goes on without: see weight_sync.nccl_faults.
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    }
)
"""Variables of a learner rank. CUDA and NCCL read each once, when they are first used."""
