"""Load Hugging Face tensors into a sharded Megatron model; ``weight_stream`` is the way out."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from megatron_rl.conversion.families import SELECTION_BIAS, WeightRule, weight_rules
from megatron_rl.conversion.layouts import shard, to_huggingface, to_megatron, unshard
from megatron_rl.conversion.stacked import PartReader
from megatron_rl.errors import ModelError
from megatron_rl.hf_folder import random_tensor
from megatron_rl.learner.device.parallel import Parallel
from megatron_rl.model_spec import ModelSpec

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.")
_EXPERT = re.compile(r"local_experts\.(\d+)\.")
# Where all experts of a layer are one module, each is still a parameter.
_GROUPED = re.compile(r"experts\.(linear_fc[12])\.(weight|bias)(\d+)$")
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
    params, tensors_of = params_by_rule(chunks, spec, parallel), PartReader(read)
    for rule in weight_rules(spec):
        for param in params.pop(rule.megatron, ()):
            _fill(param, rule, spec, parallel, tensors_of(rule))
    assert not params, f"parameters without a rule: {sorted(params)}"


def random_weights(
    chunks: Sequence[torch.nn.Module], spec: ModelSpec, parallel: Parallel, *, seed: int
) -> Callable[[str], Tensor]:
    """Return a ``read`` for :func:`load_weights` that makes up weights from names and the seed."""
    shapes: dict[str, torch.Size] = {}
    params = params_by_rule(chunks, spec, parallel)
    for rule in weight_rules(spec):
        for local in params.get(rule.megatron, ()):
            tensors = to_huggingface(
                rule.layout,
                _whole_on_meta(rule, local, parallel),
                num_groups=spec.num_groups,
                head_dim=spec.head_dim,
                interleaved_dim=spec.interleaved_dim,
                vocab_size=spec.vocab_size,
            )
            experts = (spec.num_experts,) if rule.is_stacked else ()
            whole = (torch.Size((*experts, *tensor.shape)) for tensor in tensors)
            shapes.update(zip(rule.huggingface, whole, strict=True))

    def made_up(name: str) -> Tensor:
        if spec.has_centred_norms and name.endswith("norm.weight"):
            return torch.zeros(shapes[name])
        return random_tensor(name, shapes[name], std=spec.init_std, seed=seed)

    return made_up


def params_by_rule(
    chunks: Sequence[torch.nn.Module], spec: ModelSpec, parallel: Parallel
) -> dict[str, list[Tensor]]:
    """Return this rank's parameters, and biases of routers, under the names of the whole model.

    Layers are numbered over all stages, experts over all expert-parallel ranks. A tied output
    layer on the last of several stages is a second copy of the embedding.
    """
    first_expert = 0
    if spec.moe is not None:
        first_expert = parallel.ep_rank * (spec.moe.num_experts // parallel.layout.ep)
    params: dict[str, list[Tensor]] = {}
    for chunk in chunks:
        layers = chunk.decoder.layers
        first_layer = layers[0].layer_number - 1 if len(layers) else 0
        for name, param in _weights_of(chunk):
            whole_name = _shift(_LAYER, ungrouped(name), first_layer)
            whole_name = _shift(_EXPERT, whole_name, first_expert)
            if spec.is_tied and whole_name == _OUTPUT:
                whole_name = _EMBEDDING
            params.setdefault(whole_name, []).append(param)
    return params


def _weights_of(chunk: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters, and buffers that belong to the model as they do."""
    yield from chunk.named_parameters()
    for name, buffer in chunk.named_buffers():
        if name.endswith(SELECTION_BIAS):
            yield name, buffer


def ungrouped(name: str) -> str:
    """Return a parameter's name in a layer whose experts are modules of their own.

    Example:
        >>> ungrouped("mlp.experts.linear_fc1.weight3")
        'mlp.experts.local_experts.3.linear_fc1.weight'
    """
    return _GROUPED.sub(r"experts.local_experts.\3.\1.\2", name)


def _shift(pattern: re.Pattern[str], name: str, by: int) -> str:
    """Add ``by`` to the number that the pattern finds in a parameter's name."""

    def replace(match: re.Match[str]) -> str:
        return match.group(0).replace(match.group(1), str(int(match.group(1)) + by))

    return pattern.sub(replace, name)


def cut_of(rule: WeightRule, parallel: Parallel) -> tuple[int, int, Any]:
    """Return number, own index and group of the ranks a parameter is cut over."""
    if rule.expert is None:
        return parallel.layout.tp, parallel.tp_rank, parallel.tp_group
    return parallel.layout.etp, parallel.etp_rank, parallel.etp_group


def _fill(
    param: Tensor,
    rule: WeightRule,
    spec: ModelSpec,
    parallel: Parallel,
    tensors: Sequence[Tensor],
) -> None:
    size, rank, _ = cut_of(rule, parallel)
    whole = to_megatron(
        rule.layout,
        tensors,
        num_groups=spec.num_groups,
        head_dim=spec.head_dim,
        interleaved_dim=spec.interleaved_dim,
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
    size, _, _ = cut_of(rule, parallel)
    return unshard(rule.layout, [part] * size)
