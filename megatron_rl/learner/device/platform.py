"""Device platform of a learner, CUDA or CPU; other modules ask it instead of the device."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from megatron_rl.learner.device.engine_headers import show_engine_the_headers
from megatron_rl.learner.device.precision import fused_fields, has_engine_attention
from megatron_rl.placement.gpu_environment import LEARNER_DEFAULTS


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

    def fused_fields(
        self, *, dtype: torch.dtype, is_mixture: bool, has_latents: bool
    ) -> dict[str, Any]:
        """Return the fields of TransformerConfig that ask for the kernels there are."""
        ...

    def upload(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the host on the device; it must not be changed afterwards."""
        ...

    def host_buffer(self, like: Tensor) -> Tensor:
        """Return memory of the host that ``like`` can be copied to without waiting."""
        ...

    def start_copy(self, tensor: Tensor, buffer: Tensor) -> None:
        """Begin to copy a tensor into a host buffer, which holds it after ``synchronize``."""
        ...

    def synchronize(self) -> None:
        """Wait for everything that this rank's device was asked for."""
        ...

    def mark(self) -> Any:
        """Return a mark of what the device was asked for so far, for ``follow`` of other threads.

        A device computes later than it is asked, in an order that holds within one thread only.
        """
        ...

    def follow(self, mark: Any) -> None:
        """Use the device from the calling thread, for what comes after the mark."""
        ...

    def generator_states(self) -> dict[str, Any]:
        """Return the states of all random generators of this rank."""
        ...

    def set_generator_states(self, states: Mapping[str, Any]) -> None:
        """Continue from these states, as far as they are of this kind of device."""
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
        from megatron_rl.learner.device.cpu_patches import apply_all

        torch.set_num_threads(self.num_threads)
        apply_all()

    def block_spec(self, config: Any, *, vp_stage: int | None) -> Any:
        """Torch-native layers."""
        from megatron_rl.learner.device.torch_layers import torch_block_spec

        return torch_block_spec(config, vp_stage=vp_stage)

    def fused_fields(
        self, *, dtype: torch.dtype, is_mixture: bool, has_latents: bool
    ) -> dict[str, Any]:
        """None."""
        return {}

    def upload(self, tensor: Tensor) -> Tensor:
        """The tensor itself."""
        return tensor

    def host_buffer(self, like: Tensor) -> Tensor:
        """Plain memory."""
        return torch.empty(like.shape, dtype=like.dtype)

    def start_copy(self, tensor: Tensor, buffer: Tensor) -> None:
        """Copy at once."""
        buffer.copy_(tensor)

    def synchronize(self) -> None:
        """Nothing is started without waiting."""

    def mark(self) -> None:
        """Nothing: a host has done what it was asked for."""

    def follow(self, mark: None) -> None:
        """Nothing to wait for."""

    def generator_states(self) -> dict[str, Any]:
        """The host's, and those that Megatron forks from it."""
        return {"host": torch.get_rng_state(), "kind": "cpu", "forked": _tracker().get_states()}

    def set_generator_states(self, states: Mapping[str, Any]) -> None:
        """All of them; of a GPU's, the host's."""
        torch.set_rng_state(states["host"])
        if states["kind"] == "cpu":
            _tracker().set_states(dict(states["forked"]))


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
        from megatron.core.optimizer.distrib_optimizer import HAVE_APEX_OR_TE

        from megatron_rl.learner.device.cpu_patches import (
            bind_names_of_transformer_engine,
            give_megatron_a_torch_adam,
            leave_latent_projections_whole,
        )

        torch.cuda.set_device(self.local_rank)
        show_engine_the_headers(os.environ)
        bind_names_of_transformer_engine()
        leave_latent_projections_whole()
        if not HAVE_APEX_OR_TE:
            # With torch's own AdamW, Megatron saves a state that it refuses to load.
            give_megatron_a_torch_adam()

    def block_spec(self, config: Any, *, vp_stage: int | None) -> Any:
        """Transformer Engine's layers, or torch-native ones of the same parameter names.

        Attention is torch's where Transformer Engine has no kernel for packed rows.
        """
        from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec

        from megatron_rl.learner.device.torch_layers import attend_with_torch, torch_block_spec

        if not _has_engine_for(config.params_dtype):
            return torch_block_spec(config, vp_stage=vp_stage)
        block = get_gpt_decoder_block_spec(config, use_transformer_engine=True, vp_stage=vp_stage)
        if not has_engine_attention(
            self.capability,
            head_dim=config.kv_channels,
            value_dim=config.v_head_dim if config.multi_latent_attention else config.kv_channels,
            is_deterministic=os.environ.get("NVTE_ALLOW_NONDETERMINISTIC_ALGO") == "0",
            has_sinks=config.softmax_type == "learnable",
        ):
            attend_with_torch(block)
        return block

    def fused_fields(
        self, *, dtype: torch.dtype, is_mixture: bool, has_latents: bool
    ) -> dict[str, Any]:
        """Transformer Engine's."""
        from megatron.core.utils import get_te_version

        if not _has_engine_for(dtype):
            return {}
        return fused_fields(str(get_te_version()), is_mixture=is_mixture, has_latents=has_latents)

    def upload(self, tensor: Tensor) -> Tensor:
        """From pinned memory, so that the GPU goes on computing meanwhile."""
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def host_buffer(self, like: Tensor) -> Tensor:
        """Pinned memory."""
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=True)

    def start_copy(self, tensor: Tensor, buffer: Tensor) -> None:
        """In the order of the current stream, while the host goes on."""
        buffer.copy_(tensor, non_blocking=True)

    def synchronize(self) -> None:
        """Wait for this rank's GPU."""
        torch.cuda.synchronize(self.local_rank)

    def mark(self) -> torch.cuda.Event:
        """An event on the current stream."""
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self.local_rank))
        return event

    def follow(self, mark: torch.cuda.Event) -> None:
        """Select this rank's GPU, which CUDA asks of every thread, and have its stream wait."""
        torch.cuda.set_device(self.local_rank)
        torch.cuda.current_stream(self.local_rank).wait_event(mark)

    def generator_states(self) -> dict[str, Any]:
        """The host's, the GPU's, and those that Megatron forks from it."""
        return {
            "host": torch.get_rng_state(),
            "kind": "cuda",
            "device": torch.cuda.get_rng_state(self.local_rank),
            "forked": _tracker().get_states(),
        }

    def set_generator_states(self, states: Mapping[str, Any]) -> None:
        """All of them; of a CPU's, the host's."""
        torch.set_rng_state(states["host"])
        if states["kind"] == "cuda":
            torch.cuda.set_rng_state(states["device"], self.local_rank)
            _tracker().set_states(dict(states["forked"]))


def detect_platform(*, cpu_threads: int, local_rank: int) -> Platform:
    """Return the platform of this machine. Call it before anything else asks for a GPU."""
    # Also for ranks that no launcher of ours has started.
    for name, value in LEARNER_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if torch.cuda.is_available():
        return CudaPlatform(local_rank=local_rank)
    return CpuPlatform(num_threads=cpu_threads)


def _has_engine_for(dtype: torch.dtype) -> bool:
    """Whether Transformer Engine computes in a type: it has no attention of packed float32 rows."""
    from megatron.core.extensions.transformer_engine import HAVE_TE

    return bool(HAVE_TE) and dtype != torch.float32


def _tracker() -> Any:
    """Megatron's generators of tensor-parallel and expert-parallel regions."""
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    return get_cuda_rng_tracker()
