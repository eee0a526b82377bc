"""Memory of a layout on the GPU that needs most, in bytes. Pure arithmetic.

An estimate: what tensors there are follows from the code of the learner and of Megatron, with
Transformer Engine's layers and flash attention. Not in it: the CUDA context, communication buffers,
fragmentation, and experts that get more than their share of the tokens.
"""

from dataclasses import dataclass
from typing import Literal

from megatron_rl.config import resolve_chunk_tokens
from megatron_rl.model_spec import LatentAttention, ModelSpec
from megatron_rl.parallelism.layouts import Layout
from megatron_rl.parallelism.parameters import stage_layers, stage_parameters

Precision = Literal["bf16", "fp16", "fp32", "fp8"]

RESERVE_GIB = 8.0
"""Of a GPU, for what the estimate does not count."""

_WEIGHT_BYTES = {
    "fp32": 4,
    "bf16": 2,
    "fp16": 2,
    # bfloat16, and what Transformer Engine keeps of it in 8 bits: the matrix and its transpose.
    "fp8": 4,
}
_ACTIVATION_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 2}
_GRADIENT_BYTES = 4
_MOMENTS_BYTES = 8
_MAIN_WEIGHT_BYTES = {"fp32": 0, "bf16": 4, "fp16": 4, "fp8": 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of one GPU."""

    weights: int
    reference: int
    """Weights of the frozen model that a KL penalty compares with."""
    gradients: int
    optimizer: int
    """Float32 weights and moments, sharded over data- and context-parallel ranks."""
    activations: int
    logits: int
    """Of one chunk of tokens, and the gradient of the output layer while it is added up."""

    @property
    def total(self) -> int:
        """All of it."""
        model = self.weights + self.reference + self.gradients + self.optimizer
        return model + self.activations + self.logits


def estimate_memory(
    model: ModelSpec,
    layout: Layout,
    *,
    world_size: int,
    precision: Precision,
    token_budget: int,
    chunk_tokens: int | None,
    is_recomputed: bool,
    has_reference: bool,
    has_fp32_head: bool,
) -> Memory:
    """Estimate the fullest pipeline stage.

    Args:
        layout: a legal one for this model and ``world_size``.
        world_size: GPUs of the learner.
        token_budget: tokens of one row; a longer sequence makes a longer row.
        chunk_tokens: tokens whose logits exist at one time; 0 for all of a row, None for what suits
            a GPU.
        is_recomputed: full activation recomputation, layer by layer.
        has_reference: a KL penalty holds a second set of weights.
        has_fp32_head: the output layer is multiplied in float32.
    """
    stages = [
        _stage_memory(
            model,
            layout,
            stage,
            world_size=world_size,
            precision=precision,
            token_budget=token_budget,
            chunk_tokens=chunk_tokens,
            is_recomputed=is_recomputed,
            has_reference=has_reference,
            has_fp32_head=has_fp32_head,
        )
        for stage in range(layout.pp)
    ]
    return max(stages, key=lambda stage: stage.total)


def _stage_memory(
    model: ModelSpec,
    layout: Layout,
    stage: int,
    *,
    world_size: int,
    precision: Precision,
    token_budget: int,
    chunk_tokens: int | None,
    is_recomputed: bool,
    has_reference: bool,
    has_fp32_head: bool,
) -> Memory:
    dense, expert = stage_parameters(model, layout, stage).on_rank(layout)
    of_stage = world_size // layout.pp
    sharded = dense // (of_stage // layout.tp) + expert // (of_stage // (layout.ep * layout.etp))
    weights = (dense + expert) * _WEIGHT_BYTES[precision]
    tokens = -(-token_budget // layout.cp)
    size = _ACTIVATION_BYTES[precision]
    activations = _layers_activations(
        model, layout, stage, tokens=tokens, element_size=size, is_recomputed=is_recomputed
    )
    logits = 0
    if stage == layout.pp - 1:
        activations += _head_activations(model, layout, tokens=tokens) * size
        wanted = resolve_chunk_tokens(
            chunk_tokens, vocab_size=model.vocab_size, tp=layout.tp, is_gpu=True
        )
        chunk = min(wanted, tokens) if wanted else tokens
        logits = _logits(model, layout, chunk=chunk, element_size=size, has_fp32_head=has_fp32_head)
    return Memory(
        weights=weights,
        reference=weights if has_reference else 0,
        gradients=(dense + expert) * _GRADIENT_BYTES,
        optimizer=sharded * (_MOMENTS_BYTES + _MAIN_WEIGHT_BYTES[precision]),
        activations=activations,
        logits=logits,
    )


def _layers_activations(
    model: ModelSpec,
    layout: Layout,
    stage: int,
    *,
    tokens: int,
    element_size: int,
    is_recomputed: bool,
) -> int:
    """Return what a stage keeps for its backward passes, and works with in the heaviest layer."""
    layers = stage_layers(model, layout, stage)
    kept = [
        layer_activations(model, layout, layer, tokens=tokens) * element_size for layer in layers
    ]
    # The gradients of a layer take as much again as what it keeps.
    working = max(kept)
    if is_recomputed:
        working *= 2
        kept = [_residual_tokens(layout, tokens) * model.hidden_size * element_size] * len(layers)
    in_flight = _chunks_in_flight(layout, stage)
    return sum(kept) * in_flight // layout.vpp + working


def _chunks_in_flight(layout: Layout, stage: int) -> int:
    """Return how many passes through a chunk of a stage wait for their backward pass at most."""
    behind = layout.pp - stage - 1
    return behind + 1 if layout.vpp == 1 else 2 * behind + (layout.vpp - 1) * layout.pp + 1


def layer_activations(model: ModelSpec, layout: Layout, layer: int, *, tokens: int) -> int:
    """Count the elements that a layer keeps for its backward pass.

    Residual stream: input and output of both norms, input of each sandwich norm. Attention:
    queries, keys and values together, queries and keys once more after norm and once after
    rotation, the result; of latent attention see ``_latent_activations``. Feed-forward: gate and
    up, their product. A mixture of experts does so for every expert of a token and keeps what each
    of them is given, and once for the expert that all share; its router keeps float32 scores and
    probabilities.
    """
    if model.latent is None:
        queries, keys = model.num_heads * model.head_dim, model.num_groups * model.head_dim
        turned = (1 + model.has_qk_norm) * (queries + keys) + _with_sinks(model)
        attention = (2 * queries + 2 * keys + turned) * tokens // layout.tp
    else:
        attention = _latent_activations(model, model.latent, layout, tokens=tokens)
    at_norms = 4 + 2 * model.has_sandwich_norms
    residual = at_norms * model.hidden_size * _residual_tokens(layout, tokens)
    if not model.mixtures[layer]:
        return residual + attention + 3 * model.ffn_size * tokens // layout.tp
    given = model.experts_per_token * _residual_tokens(layout, tokens)
    router = 4 * model.num_experts * _residual_tokens(layout, tokens)
    shared = 3 * model.shared_ffn_size * tokens // layout.tp
    # Clamped gate and up, the sigmoid, what it scales, the product before it is weighed.
    activation = 8 if model.activation == "clamped" else 3
    # Ranks that share an expert gather each other's tokens and compute a part of each.
    return (
        residual
        + attention
        + router
        + shared
        + given * (model.hidden_size * layout.etp + activation * model.expert_ffn_size)
    )


def _latent_activations(
    model: ModelSpec, latent: LatentAttention, layout: Layout, *, tokens: int
) -> int:
    """Count the elements that latent attention keeps.

    Latents before and after their norm. Queries as projected, once more where they are rotated and
    once put together; keys and values as projected, each put together; the result.
    """
    ranks = 2 * ((latent.query_rank or 0) + latent.kv_rank) + model.rotary_dim
    plain = model.head_dim - model.rotary_dim
    query = 2 * model.head_dim + model.rotary_dim
    key_and_value = plain + latent.value_dim + model.head_dim + latent.value_dim
    head = query + key_and_value + latent.value_dim
    heads = model.num_heads * head * tokens // layout.tp
    return ranks * _residual_tokens(layout, tokens) + heads


def _with_sinks(model: ModelSpec) -> int:
    """Count the elements of a token in the longer heads that torch attends with; see its sinks."""
    if not model.has_sinks:
        return 0
    of_group = 2 * model.num_heads // model.num_groups
    width = model.head_dim + -(-of_group // 8) * 8
    return 2 * (model.num_heads + model.num_groups) * width


def _residual_tokens(layout: Layout, tokens: int) -> int:
    return -(-tokens // layout.tp) if layout.sp else tokens


def _head_activations(model: ModelSpec, layout: Layout, *, tokens: int) -> int:
    """Count the elements of the last norm, its gathered output and the gradient of that."""
    return model.hidden_size * (2 * _residual_tokens(layout, tokens) + 2 * tokens)


def _logits(
    model: ModelSpec, layout: Layout, *, chunk: int, element_size: int, has_fp32_head: bool
) -> int:
    """Return the bytes of log-probs, float32 and as multiplied, and of the output's gradient."""
    vocabulary = -(-model.vocab_size // layout.tp)
    multiplied = 4 if has_fp32_head else element_size
    # Log-probs and their gradient; the latter as it is multiplied.
    logits = chunk * vocabulary * (8 + multiplied)
    # A float32 sum, and the product that is added to it or what it is rounded to.
    output = 4 + element_size
    if multiplied > element_size:
        output += multiplied  # a copy of the weight
    return logits + vocabulary * model.hidden_size * output
