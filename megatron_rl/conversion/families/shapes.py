"""Tensor shapes that config.json implies, and the check of a folder against them.

Shape letters: Q = query heads, G = key/value heads, D = head dim, H = hidden size, F = feed-forward
size, E = experts, V = vocabulary.
"""

import re
from collections.abc import Iterator, Mapping

from megatron_rl.conversion.families.rules import SELECTION_BIAS, WeightRule, weight_rules
from megatron_rl.errors import ModelError
from megatron_rl.model_spec import LatentAttention, ModelSpec

Shape = tuple[int, ...]

# Tensors that some models store although the architecture computes them: a copy of the tied
# embedding, and the frequencies of the rotary embedding.
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_REDUNDANT = ("lm_head.weight", ".rotary_emb.inv_freq")


def tensor_shapes(spec: ModelSpec) -> Iterator[tuple[str, Shape]]:
    """Yield (Hugging Face name, shape) of every tensor of the model, in the order of its rules."""
    for rule in weight_rules(spec):
        if not rule.is_stacked:
            yield from zip(rule.huggingface, _shapes(rule, spec), strict=True)
        elif rule.expert == 0:
            parts = zip(rule.huggingface, _shapes(rule, spec), strict=True)
            yield from ((name, (spec.num_experts, *part)) for name, part in parts)


def check_tensors(spec: ModelSpec, shapes: Mapping[str, Shape]) -> None:
    """Raise ModelError naming the first tensor in which a folder disagrees with its config.json.

    Args:
        shapes: shape of every tensor that the folder holds.
    """
    expected = dict(tensor_shapes(spec))
    for name, shape in expected.items():
        if name not in shapes:
            is_output = name == "lm_head.weight"
            remedy = "; set tie_word_embeddings = true if the embedding serves as that"
            raise ModelError(
                f"tensor {name} {shape} of config.json is missing from the files"
                + (remedy if is_output else "")
            )
        if shapes[name] != shape:
            raise ModelError(
                f"tensor {name} is {shapes[name]} in the files, but {shape} by config.json"
            )
    for name in sorted(shapes.keys() - expected.keys()):
        if not name.endswith(_REDUNDANT) and not _is_of_draft_layer(name, spec):
            raise ModelError(
                f"tensor {name} {shapes[name]} of the files has no place in config.json"
            )


def _is_of_draft_layer(name: str, spec: ModelSpec) -> bool:
    found = _LAYER.match(name)
    return found is not None and 0 <= int(found[1]) - spec.num_layers < spec.num_draft_layers


def _shapes(rule: WeightRule, spec: ModelSpec) -> tuple[Shape, ...]:
    """Return the shapes of a rule's tensors; of stacked ones, what one expert has of them."""
    hidden = spec.hidden_size
    if spec.latent is not None and "self_attention" in rule.megatron:
        return (_latent_shape(rule.megatron, spec, spec.latent),)
    module, kind = rule.megatron.split(".")[-2:]
    if rule.layout == "qkv":
        rest = (hidden,) if kind == "weight" else ()
        queries, keys = spec.num_heads * spec.head_dim, spec.num_groups * spec.head_dim
        return (queries, *rest), (keys, *rest), (keys, *rest)
    if rule.layout == "gate_up":
        return ((_ffn_size(rule, spec), hidden),) * 2
    if rule.layout == "fused_gate_up":
        return ((2 * _ffn_size(rule, spec), hidden),)
    if rule.layout == "gate_up_in_turns":
        rest = (hidden,) if kind == "weight" else ()
        return ((*rest, 2 * _ffn_size(rule, spec)),)
    if rule.layout == "row_of_inputs":
        return ((_ffn_size(rule, spec), hidden),)
    if rule.layout == "vocab":
        return ((spec.vocab_size, hidden),)
    if rule.layout == "row" and kind == "bias":
        return ((hidden,),)
    if rule.layout == "column":  # sinks
        return ((spec.num_heads,),)
    if rule.layout == "row":
        is_attention = module == "linear_proj"
        inputs = spec.num_heads * spec.head_dim if is_attention else _ffn_size(rule, spec)
        return ((hidden, inputs),)
    if rule.megatron.endswith(SELECTION_BIAS):
        return ((spec.num_experts,),)
    if module == "router":
        return ((spec.num_experts, hidden) if kind == "weight" else (spec.num_experts,),)
    if kind == "gate_weight":
        return ((1, hidden),)
    is_of_heads = module in ("q_layernorm", "k_layernorm")
    return ((spec.head_dim if is_of_heads else hidden,),)


def _latent_shape(name: str, spec: ModelSpec, latent: LatentAttention) -> Shape:
    rank = latent.query_rank if "linear_q_" in name else latent.kv_rank
    inputs = spec.hidden_size if rank is None else rank
    if name.endswith("layer_norm_weight"):
        return (inputs,)
    if "linear_proj" in name:
        return spec.hidden_size, spec.num_heads * latent.value_dim
    if "linear_q_down" in name:
        return inputs, spec.hidden_size
    if "linear_kv_down" in name:
        return inputs + spec.rotary_dim, spec.hidden_size
    if "linear_kv_up" in name:
        return spec.num_heads * (spec.head_dim - spec.rotary_dim + latent.value_dim), inputs
    return spec.num_heads * spec.head_dim, inputs


def _ffn_size(rule: WeightRule, spec: ModelSpec) -> int:
    if "shared_experts" in rule.megatron:
        return spec.shared_ffn_size
    return spec.ffn_size if rule.expert is None else spec.expert_ffn_size
