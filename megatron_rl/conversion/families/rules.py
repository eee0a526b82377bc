"""Weight rules: the Hugging Face tensors that make each Megatron parameter."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_rl.conversion.families.tables import FAMILIES, ExpertNames, Family, NormNames
from megatron_rl.model_spec import LatentAttention, ModelSpec, MoeSpec

if TYPE_CHECKING:
    # A plan is also made where there is no torch.
    from megatron_rl.conversion.layouts import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightRule:
    """One Megatron parameter and the Hugging Face tensors it is made of, in order."""

    megatron: str
    """Name in the whole model; layers and experts are numbered over all ranks."""
    huggingface: tuple[str, ...]
    layout: "Layout"
    expert: int | None
    """Number of the expert among those of its layer; None outside experts.

    Experts are cut over the expert-tensor-parallel ranks, all else over the tensor-parallel ones.
    """
    is_stacked: bool = False
    """Whether the tensor, which is one then, has all experts of the layer in its first dimension,
    and the parameter is made of this expert's part. Rules of one such tensor follow each other."""

    @property
    def is_float32(self) -> bool:
        """Whether the tensor is float32 whatever the type of the others."""
        return self.megatron.endswith(SELECTION_BIAS)


SELECTION_BIAS = "mlp.router.expert_bias"
"""Name, within its layer, of what is added to scores before experts are chosen: a buffer of
float32, whatever the type of the parameters."""

# The norm of a branch's output is the last part of its last matrix.
_POST_NORM = "post_layernorm.weight"
_SINKS = "self_attention.core_attention.softmax_offset"

_Row = tuple[str, tuple[str, ...], "Layout"]
"""Parameter and tensors, relative to their layer."""


def weight_rules(spec: ModelSpec) -> Iterator[WeightRule]:
    """Yield the rule of every parameter of the whole model, in a fixed order."""
    yield WeightRule(
        megatron="embedding.word_embeddings.weight",
        huggingface=("model.embed_tokens.weight",),
        layout="vocab",
        expert=None,
    )
    for layer in range(spec.num_layers):
        yield from _layer_rules(spec, layer)
    yield WeightRule(
        megatron="decoder.final_layernorm.weight",
        huggingface=("model.norm.weight",),
        layout="replicated",
        expert=None,
    )
    if not spec.is_tied:
        yield WeightRule(
            megatron="output_layer.weight",
            huggingface=("lm_head.weight",),
            layout="vocab",
            expert=None,
        )


def float32_tensors(spec: ModelSpec) -> frozenset[str]:
    """Return the Hugging Face tensors that are float32 whatever the type of the others."""
    return frozenset(
        name for rule in weight_rules(spec) if rule.is_float32 for name in rule.huggingface
    )


def _layer_rules(spec: ModelSpec, layer: int) -> Iterator[WeightRule]:
    family = FAMILIES[spec.family]
    for row in _attention_rows(spec, family.norms):
        yield _rule(layer, row, expert=None)
    if spec.moe is None or not spec.moe.layers[layer]:
        for row in _dense_rows(family):
            yield _rule(layer, row, expert=None)
        return
    names = family.experts
    assert names is not None, spec.family
    for row in [*_router_rows(spec, names), *_shared_rows(names)]:
        yield _rule(layer, row, expert=None)
    if names.is_stacked:
        yield from _stacked_rules(spec.moe, names, layer)
        return
    for expert in range(spec.moe.num_experts):
        for row in _expert_rows(names, expert):
            yield _rule(layer, row, expert=expert)


def _stacked_rules(moe: MoeSpec, names: ExpertNames, layer: int) -> Iterator[WeightRule]:
    """Yield the rules of a layer's experts tensor by tensor, each with its experts in order."""
    for part, tensor, layout in _stacked_rows(names):
        for expert in range(moe.num_experts):
            row: _Row = (f"{_expert_prefix(expert)}.{part}", tensor, layout)
            yield _rule(layer, row, expert=expert, is_stacked=True)


def _rule(layer: int, row: _Row, *, expert: int | None, is_stacked: bool = False) -> WeightRule:
    megatron, tensors, layout = row
    return WeightRule(
        megatron=f"decoder.layers.{layer}.{megatron}",
        huggingface=tuple(f"model.layers.{layer}.{tensor}" for tensor in tensors),
        layout=layout,
        expert=expert,
        is_stacked=is_stacked,
    )


def _attention_rows(spec: ModelSpec, norms: NormNames) -> Iterator[_Row]:
    if spec.latent is not None:
        yield from _latent_rows(spec.latent)
        return
    yield (
        "self_attention.linear_qkv.layer_norm_weight",
        ("input_layernorm.weight",),
        "replicated",
    )
    for kind in ("weight", "bias") if spec.has_qkv_bias else ("weight",):
        tensors = tuple(f"self_attn.{part}_proj.{kind}" for part in "qkv")
        yield f"self_attention.linear_qkv.{kind}", tensors, "qkv"
    if spec.has_qk_norm:
        yield "self_attention.q_layernorm.weight", ("self_attn.q_norm.weight",), "replicated"
        yield "self_attention.k_layernorm.weight", ("self_attn.k_norm.weight",), "replicated"
    if spec.has_sinks:
        yield _SINKS, ("self_attn.sinks",), "column"
    yield "self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), "row"
    if spec.has_linear_biases:
        yield "self_attention.linear_proj.bias", ("self_attn.o_proj.bias",), "row"
    if norms.after_attention is not None:
        yield (
            f"self_attention.linear_proj.{_POST_NORM}",
            (f"{norms.after_attention}.weight",),
            "replicated",
        )


def _dense_rows(family: Family) -> Iterator[_Row]:
    norms, fc1 = family.norms, "mlp.linear_fc1.weight"
    yield "mlp.linear_fc1.layer_norm_weight", (f"{norms.before_mlp}.weight",), "replicated"
    if family.gate_up is None:
        yield fc1, ("mlp.gate_proj.weight", "mlp.up_proj.weight"), "gate_up"
    else:
        yield fc1, (f"{family.gate_up}.weight",), "fused_gate_up"
    yield "mlp.linear_fc2.weight", ("mlp.down_proj.weight",), "row"
    if norms.after_mlp is not None:
        yield f"mlp.linear_fc2.{_POST_NORM}", (f"{norms.after_mlp}.weight",), "replicated"


def _latent_rows(latent: LatentAttention) -> Iterator[_Row]:
    """Yield attention whose norms are fused with what follows them, as Transformer Engine's are.

    The projections down are neighbours, since servers load them together.
    """
    yield "input_layernorm.weight", ("input_layernorm.weight",), "replicated"
    if latent.query_rank is None:
        yield "self_attention.linear_q_proj.weight", ("self_attn.q_proj.weight",), "column"
    else:
        yield _latent_row("q_down_proj.weight", "q_a_proj", "replicated")
    yield _latent_row("kv_down_proj.weight", "kv_a_proj_with_mqa", "replicated")
    if latent.query_rank is not None:
        yield _latent_row("q_up_proj.layer_norm_weight", "q_a_layernorm", "replicated")
        yield _latent_row("q_up_proj.weight", "q_b_proj", "column")
    yield _latent_row("kv_up_proj.layer_norm_weight", "kv_a_layernorm", "replicated")
    yield _latent_row("kv_up_proj.weight", "kv_b_proj", "column")
    yield "self_attention.linear_proj.weight", ("self_attn.o_proj.weight",), "row"


def _latent_row(megatron: str, huggingface: str, layout: "Layout") -> _Row:
    return f"self_attention.linear_{megatron}", (f"self_attn.{huggingface}.weight",), layout


def _router_rows(spec: ModelSpec, names: ExpertNames) -> Iterator[_Row]:
    yield "pre_mlp_layernorm.weight", ("post_attention_layernorm.weight",), "replicated"
    for kind in ("weight", "bias") if spec.has_linear_biases else ("weight",):
        yield f"mlp.router.{kind}", (f"{names.router}.{kind}",), "replicated"
    if names.selection_bias is not None:
        yield SELECTION_BIAS, (names.selection_bias,), "replicated"


def _shared_rows(names: ExpertNames) -> Iterator[_Row]:
    if names.shared is None:
        return
    prefix = "mlp.shared_experts"
    gate, up, down = (f"{names.shared}.{part}_proj.weight" for part in ("gate", "up", "down"))
    yield f"{prefix}.linear_fc1.weight", (gate, up), "gate_up"
    yield f"{prefix}.linear_fc2.weight", (down,), "row"
    if names.shared_gate is not None:
        yield f"{prefix}.gate_weight", (f"{names.shared_gate}.weight",), "replicated"


def _stacked_rows(names: ExpertNames) -> Iterator[_Row]:
    """Yield parameters relative to their expert; gpt-oss, which alone has them, has biases."""
    yield "linear_fc1.weight", (names.gate,), "gate_up_in_turns"
    yield "linear_fc1.bias", (f"{names.gate}_bias",), "gate_up_in_turns"
    yield "linear_fc2.weight", (names.down,), "row_of_inputs"
    yield "linear_fc2.bias", (f"{names.down}_bias",), "row"


def _expert_rows(names: ExpertNames, expert: int) -> Iterator[_Row]:
    prefix = _expert_prefix(expert)
    gate, up, down = (
        f"{name.format(expert=expert)}.weight" for name in (names.gate, names.up, names.down)
    )
    yield f"{prefix}.linear_fc1.weight", (gate, up), "gate_up"
    yield f"{prefix}.linear_fc2.weight", (down,), "row"


def _expert_prefix(expert: int) -> str:
    return f"mlp.experts.local_experts.{expert}"
