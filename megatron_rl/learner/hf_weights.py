"""Hugging Face tensors into a sharded Megatron model and out of it again."""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_rl.conversion.families import ModelSpec, WeightRule, weight_rules
from megatron_rl.conversion.layouts import shard, to_huggingface, to_megatron, unshard
from megatron_rl.errors import ModelError
from megatron_rl.hf_folder import random_tensor
from megatron_rl.learner.parallel import Parallel


@torch.no_grad()
def load_weights(
    model: torch.nn.Module, spec: ModelSpec, parallel: Parallel, read: Callable[[str], Tensor]
) -> None:
    """Fill this rank's parameters.

    Args:
        model: the bare GPTModel.
        read: returns the whole Hugging Face tensor of a name.

    Raises:
        ModelError: a tensor is missing or has another shape than config.json says.
    """
    params = dict(model.named_parameters())
    for rule in weight_rules(spec):
        param = params.pop(rule.megatron)
        whole = to_megatron(
            rule.layout,
            [read(name) for name in rule.huggingface],
            num_groups=spec.num_groups,
            tp_size=parallel.tp_size,
        )
        part = shard(rule.layout, whole, tp_size=parallel.tp_size, tp_rank=parallel.tp_rank)
        if part.shape != param.shape:
            raise ModelError(
                f"{' + '.join(rule.huggingface)}: shape {tuple(whole.shape)} does not fit "
                f"config.json, which makes {rule.megatron} {tuple(param.shape)} on this rank"
            )
        param.copy_(part)
    assert not params, f"parameters without a rule: {sorted(params)}"


def random_weights(
    model: torch.nn.Module, spec: ModelSpec, parallel: Parallel, *, seed: int
) -> Callable[[str], Tensor]:
    """Return a ``read`` for :func:`load_weights` that makes up weights from names and the seed."""
    shapes: dict[str, torch.Size] = {}
    params = dict(model.named_parameters())
    for rule in weight_rules(spec):
        local = params[rule.megatron]
        whole = unshard(rule.layout, [torch.empty_like(local, device="meta")] * parallel.tp_size)
        shapes.update({name: t.shape for name, t in _pairs(rule, whole, spec)})
    return lambda name: random_tensor(name, shapes[name], std=spec.init_std, seed=seed)


@torch.no_grad()
def named_weights(
    model: torch.nn.Module, spec: ModelSpec, parallel: Parallel
) -> Iterator[tuple[str, Tensor]]:
    """Yield every (Hugging Face name, whole tensor) in a fixed order, on every rank.

    A collective: all ranks iterate together. At most one Megatron parameter is gathered at a time;
    a yielded tensor may alias the live weights, so use it before the next update.
    """
    params = dict(model.named_parameters())
    for rule in weight_rules(spec):
        local = params[rule.megatron].detach()
        parts = [local]
        if parallel.tp_size > 1 and rule.layout != "replicated":
            parts = [torch.empty_like(local) for _ in range(parallel.tp_size)]
            dist.all_gather(parts, local.contiguous(), group=parallel.tp_group)
        yield from _pairs(rule, unshard(rule.layout, parts), spec)


def _pairs(rule: WeightRule, whole: Tensor, spec: ModelSpec) -> Iterator[tuple[str, Tensor]]:
    tensors = to_huggingface(
        rule.layout,
        whole,
        num_groups=spec.num_groups,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
    )
    yield from zip(rule.huggingface, tensors, strict=True)
