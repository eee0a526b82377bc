"""Hugging Face tensors into a sharded Megatron model and out of it again."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_rl.conversion.families import ModelSpec, WeightRule, weight_rules
from megatron_rl.conversion.layouts import shard, to_huggingface, to_megatron, unshard
from megatron_rl.errors import ModelError
from megatron_rl.hf_folder import random_tensor
from megatron_rl.learner.parallel import Parallel

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
_EXPERT = re.compile(r"local_experts\.(\d+)\.")
_EMBEDDING, _OUTPUT = "embedding.word_embeddings.weight", "output_layer.weight"


@torch.no_grad()
def load_weights(
    chunks: Sequence[torch.nn.Module],
    spec: ModelSpec,
    parallel: Parallel,
    read: Callable[[str], Tensor],
) -> None:
    """Fill this rank's parameters.

    Args:
        chunks: the bare GPTModels of this rank's pipeline stage.
        read: returns the whole Hugging Face tensor of a name.

    Raises:
        ModelError: a tensor is missing or has another shape than config.json says.
    """
    params = params_by_rule(chunks, spec, parallel)
    for rule in weight_rules(spec):
        for param in params.pop(rule.megatron, ()):
            _fill(param, rule, spec, parallel, read)
    assert not params, f"parameters without a rule: {sorted(params)}"


def random_weights(
    chunks: Sequence[torch.nn.Module], spec: ModelSpec, parallel: Parallel, *, seed: int
) -> Callable[[str], Tensor]:
    """Return a ``read`` for :func:`load_weights` that makes up weights from names and the seed."""
    shapes: dict[str, torch.Size] = {}
    params = params_by_rule(chunks, spec, parallel)
    for rule in weight_rules(spec):
        for local in params.get(rule.megatron, ()):
            whole = _whole_on_meta(rule, local, parallel)
            shapes.update({name: t.shape for name, t in _pairs(rule, whole, spec)})
    return lambda name: random_tensor(name, shapes[name], std=spec.init_std, seed=seed)


@torch.no_grad()
def named_weights(
    chunks: Sequence[torch.nn.Module], spec: ModelSpec, parallel: Parallel
) -> Iterator[tuple[str, Tensor]]:
    """Yield every (Hugging Face name, whole tensor) in a fixed order, on every rank.

    A collective: all ranks iterate together. At most one Megatron parameter is gathered at a time;
    a yielded tensor may alias the live weights, so use it before the next update.
    """
    params = params_by_rule(chunks, spec, parallel)
    holders = _holders(params, spec, parallel)
    for rule in weight_rules(spec):
        whole = None
        if rule.megatron in params:
            whole = _gather(rule, params[rule.megatron][0].detach(), parallel)
        whole = _deliver(whole, holders[rule.megatron], parallel)
        yield from _pairs(rule, whole, spec)


def params_by_rule(
    chunks: Sequence[torch.nn.Module], spec: ModelSpec, parallel: Parallel
) -> dict[str, list[torch.nn.Parameter]]:
    """Return this rank's parameters under the names of the whole model.

    Layers are numbered over all stages, experts over all expert-parallel ranks. A tied output
    layer on the last of several stages is a second copy of the embedding.
    """
    first_expert = 0
    if spec.moe is not None:
        first_expert = parallel.ep_rank * (spec.moe.num_experts // parallel.layout.ep)
    params: dict[str, list[torch.nn.Parameter]] = {}
    for chunk in chunks:
        layers = chunk.decoder.layers
        first_layer = layers[0].layer_number - 1 if len(layers) else 0
        for name, param in chunk.named_parameters():
            whole_name = _shift(_LAYER, name, first_layer)
            whole_name = _shift(_EXPERT, whole_name, first_expert)
            if spec.is_tied and whole_name == _OUTPUT:
                whole_name = _EMBEDDING
            params.setdefault(whole_name, []).append(param)
    return params


def _shift(pattern: re.Pattern[str], name: str, by: int) -> str:
    """Add ``by`` to the number that the pattern finds in a parameter's name."""

    def replace(match: re.Match[str]) -> str:
        return match.group(0).replace(match.group(1), str(int(match.group(1)) + by))

    return pattern.sub(replace, name)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Holder:
    """Where a parameter lives, and what it looks like once gathered."""

    stage: int
    ep_rank: int | None
    """Which expert-parallel rank holds it; None for what all of them hold."""
    shape: torch.Size
    dtype: torch.dtype


def _holders(
    params: Mapping[str, Sequence[Tensor]], spec: ModelSpec, parallel: Parallel
) -> dict[str, _Holder]:
    mine = {}
    for rule in weight_rules(spec):
        if rule.megatron in params:
            whole = _whole_on_meta(rule, params[rule.megatron][0], parallel)
            mine[rule.megatron] = _Holder(
                stage=parallel.pp_rank,
                ep_rank=None if rule.expert is None else parallel.ep_rank,
                shape=whole.shape,
                dtype=whole.dtype,
            )
    if parallel.layout.pp == parallel.layout.ep == 1:
        return mine
    everyone: list[dict[str, _Holder]] = [{}] * parallel.world_size
    dist.all_gather_object(everyone, mine)
    # The first stage that holds a parameter wins: a tied output layer is also on the last.
    found = [item for rank in everyone for item in rank.items()]
    return dict(sorted(found, key=lambda item: -item[1].stage))


def _deliver(whole: Tensor | None, holder: _Holder, parallel: Parallel) -> Tensor:
    """Send a gathered parameter from the rank that holds it to its stage, then to all stages."""
    if holder.stage == parallel.pp_rank and holder.ep_rank is not None and parallel.layout.ep > 1:
        whole = _broadcast(whole, holder, source=holder.ep_rank, group=parallel.ep_group)
    if parallel.layout.pp > 1:
        # What another stage holds as well (a tied embedding) is received like everything else.
        own = whole if holder.stage == parallel.pp_rank else None
        whole = _broadcast(own, holder, source=holder.stage, group=parallel.pp_group)
    assert whole is not None
    return whole


def _broadcast(whole: Tensor | None, holder: _Holder, *, source: int, group: Any) -> Tensor:
    if whole is None:
        device = "cpu"
        if dist.get_backend(group) == "nccl":
            device = f"cuda:{torch.cuda.current_device()}"
        whole = torch.empty(holder.shape, dtype=holder.dtype, device=device)
    whole = whole.contiguous()
    dist.broadcast(whole, src=dist.get_process_group_ranks(group)[source], group=group)
    return whole


def _cut_of(rule: WeightRule, parallel: Parallel) -> tuple[int, int, Any]:
    """Return size, rank and group of the ranks a parameter is cut over."""
    if rule.expert is None:
        return parallel.layout.tp, parallel.tp_rank, parallel.tp_group
    return parallel.layout.etp, parallel.etp_rank, parallel.etp_group


def _gather(rule: WeightRule, local: Tensor, parallel: Parallel) -> Tensor:
    size, _, group = _cut_of(rule, parallel)
    parts = [local]
    if size > 1 and rule.layout != "replicated":
        parts = [torch.empty_like(local) for _ in range(size)]
        dist.all_gather(parts, local.contiguous(), group=group)
    return unshard(rule.layout, parts)


def _fill(
    param: Tensor,
    rule: WeightRule,
    spec: ModelSpec,
    parallel: Parallel,
    read: Callable[[str], Tensor],
) -> None:
    size, rank, _ = _cut_of(rule, parallel)
    whole = to_megatron(
        rule.layout,
        [read(name) for name in rule.huggingface],
        num_groups=spec.num_groups,
        tp_size=size,
    )
    part = shard(rule.layout, whole, tp_size=size, tp_rank=rank)
    if part.shape != param.shape:
        raise ModelError(
            f"{' + '.join(rule.huggingface)}: shape {tuple(whole.shape)} does not fit "
            f"config.json, which makes {rule.megatron} {tuple(param.shape)} on this rank"
        )
    param.copy_(part)


def _whole_on_meta(rule: WeightRule, local: Tensor, parallel: Parallel) -> Tensor:
    part = torch.empty_like(local, device="meta")
    size, _, _ = _cut_of(rule, parallel)
    return unshard(rule.layout, [part] * size)


def _pairs(rule: WeightRule, whole: Tensor, spec: ModelSpec) -> Iterator[tuple[str, Tensor]]:
    tensors = to_huggingface(
        rule.layout,
        whole,
        num_groups=spec.num_groups,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
    )
    yield from zip(rule.huggingface, tensors, strict=True)
