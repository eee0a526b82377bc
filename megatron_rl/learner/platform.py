"""The hardware a learner runs on. Everything above asks the platform and never says cuda or cpu."""

import os
from dataclasses import dataclass
from typing import Any, Protocol

import torch


class Platform(Protocol):
    """What differs between GPUs and CPUs."""

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        ...

    @property
    def backend(self) -> str:
        """Process-group backend: nccl or gloo."""
        ...

    @property
    def capability(self) -> tuple[int, int] | None:
        """Compute capability of the GPU; None for a CPU."""
        ...

    def install(self) -> None:
        """Prepare this process. Call once, before Megatron builds anything."""
        ...

    def block_spec(self, config: Any, *, vp_stage: int | None) -> Any:
        """Return the transformer block of a GPTModel chunk for a TransformerConfig."""
        ...


@dataclass(frozen=True, kw_only=True)
class CpuPlatform:
    """Megatron-Core over gloo, without CUDA, Transformer Engine or apex."""

    num_threads: int

    @property
    def device(self) -> torch.device:
        """The host."""
        return torch.device("cpu")

    @property
    def backend(self) -> str:
        """gloo."""
        return "gloo"

    @property
    def capability(self) -> None:
        """None: there is no GPU."""
        return None

    def install(self) -> None:
        """Fix the thread count and apply the compatibility patches of ``cpu_patches``."""
        from megatron_rl.learner.cpu_patches import apply_all

        torch.set_num_threads(self.num_threads)
        apply_all()

    def block_spec(self, config: Any, *, vp_stage: int | None) -> Any:
        """Torch-native layers."""
        from megatron_rl.learner.torch_layers import torch_block_spec

        return torch_block_spec(config, vp_stage=vp_stage)


@dataclass(frozen=True, kw_only=True)
class CudaPlatform:
    """Megatron-Core over NCCL, with Transformer Engine's layers where it is installed."""

    local_rank: int

    @property
    def device(self) -> torch.device:
        """This rank's GPU."""
        return torch.device("cuda", self.local_rank)

    @property
    def backend(self) -> str:
        """nccl."""
        return "nccl"

    @property
    def capability(self) -> tuple[int, int]:
        """Of this rank's GPU: (9, 0) is Hopper."""
        return torch.cuda.get_device_capability(self.local_rank)

    def install(self) -> None:
        """Select this rank's GPU and let Megatron run without what is not installed."""
        from megatron_rl.learner.cpu_patches import bind_names_of_transformer_engine

        # Megatron overlaps communication with compute by relying on a single hardware queue.
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
        torch.cuda.set_device(self.local_rank)
        bind_names_of_transformer_engine()

    def block_spec(self, config: Any, *, vp_stage: int | None) -> Any:
        """Transformer Engine's layers, or torch-native ones of the same parameter names."""
        from megatron.core.extensions.transformer_engine import HAVE_TE
        from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

        from megatron_rl.learner.torch_layers import torch_block_spec

        if HAVE_TE:
            return get_gpt_decoder_block_spec(
                config, use_transformer_engine=True, vp_stage=vp_stage
            )
        return torch_block_spec(config, vp_stage=vp_stage)


def detect_platform(*, cpu_threads: int, local_rank: int) -> Platform:
    """Return the platform of this machine."""
    if torch.cuda.is_available():
        return CudaPlatform(local_rank=local_rank)
    return CpuPlatform(num_threads=cpu_threads)
