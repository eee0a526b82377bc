"""Tokens spread evenly over experts: what a mixture of experts reads on the host, assumed.

Its router computes on the GPU how many tokens each expert gets, and the host waits for these counts
to size what follows. They are unknown here, so every expert gets as many; the rest is Megatron's.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch


@contextlib.contextmanager
def even_experts() -> Iterator[list[int]]:
    """Answer each read of the counts; yield the tokens of an expert from one rank, per read."""
    from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher

    reads: list[int] = []

    def read(self: Any, point: str, tokens_per_expert: Any = None) -> Any:
        if point != self.cuda_dtoh_point:
            return tokens_per_expert
        routed = self.routing_map.size(0) * self.config.moe_router_topk
        assert routed % self.num_experts == 0, (routed, self.num_experts)
        share, local = routed // self.num_experts, self.num_local_experts
        reads.append(share)
        for name, value, count in (
            ("input_splits", share * local, self.ep_size),
            ("output_splits", share * local, self.ep_size),
            ("output_splits_tp", share * local * self.ep_size, self.tp_size),
        ):
            on_device = getattr(self, name)
            if on_device is not None:
                assert on_device.shape == (count,), (name, on_device.shape)
                setattr(self, name, torch.full((count,), value).numpy())
        if local > 1 and not self.config.moe_permute_fusion:
            self.num_global_tokens_per_local_expert = torch.full(
                (self.tp_size * self.ep_size, local), share
            )
        assert tokens_per_expert.shape == (local,)
        return torch.full((local,), share * self.tp_size * self.ep_size)

    with patch.object(MoEAlltoAllTokenDispatcher, "_maybe_dtoh_and_synchronize", read):
        yield reads
