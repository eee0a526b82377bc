"""Gradients of experts, summed over the ranks that hold a copy of them and no others.

Megatron sorts parameters by marks on them, which are wrong for some layouts of experts.
"""

from collections.abc import Iterator

import torch
from megatron.core.transformer import TransformerConfig
from torch.nn import Parameter


def reduce_over_expert_replicas(model: torch.nn.Module, config: TransformerConfig) -> None:
    """Have experts' gradients summed over their own replicas where those are not the dense ones.

    Megatron does so from two expert-parallel ranks on. But experts that are not cut as all else is
    (etp is not tp) have other replicas without these, too: whole ones are copied to every
    tensor-parallel rank, each of which sees tokens of its own.
    """
    cut_otherwise = config.expert_tensor_parallel_size != config.tensor_model_parallel_size
    for _, param in _of_experts(model):
        if param.is_meta:  # without memory it has no gradient, and came here without its marks
            continue
        assert hasattr(param, "allreduce"), "this megatron-core marks experts otherwise"
        if cut_otherwise:
            param.allreduce = False


def reduce_expert_biases_as_weights(model: torch.nn.Module) -> None:
    """Have the gradients of experts' biases summed and counted as those of experts' weights are.

    Megatron marks the bias of a row-parallel linear as one of whose gradient every tensor-parallel
    rank holds a part. For experts, which are whole where they have biases, these ranks are among
    the replicas: gradients are summed over them already, and a second sum is wrong.
    """
    for name, param in _of_experts(model):
        if ".bias" in name:
            param.sequence_parallel = False  # type: ignore[attr-defined]
            param.tensor_model_parallel = True  # type: ignore[attr-defined]


def _of_experts(model: torch.nn.Module) -> Iterator[tuple[str, Parameter]]:
    for name, param in model.named_parameters():
        if ".mlp.experts." in name:
            yield name, param
