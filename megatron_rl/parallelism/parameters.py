"""Parameter counts of a model, of a layer and of a pipeline stage."""

from dataclasses import dataclass

from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.layouts import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """How many parameters, by what shards them."""

    whole: int
    """On every tensor-parallel rank."""
    cut: int
    """Divided among tensor-parallel ranks."""
    expert: int
    """Of experts: divided among expert-parallel and expert-tensor-parallel ranks."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.whole + self.cut + self.expert

    def on_rank(self, layout: Layout) -> tuple[int, int]:
        """Return (outside experts, of experts) on one rank of a stage that has these parameters."""
        return self.whole + self.cut // layout.tp, self.expert // (layout.ep * layout.etp)


def layer_parameters(model: ModelSpec, layer: int) -> Parameters:
    """Count the parameters of one layer."""
    attention = attention_parameters(model)
    queries, keys = model.num_heads * model.head_dim, model.num_groups * model.head_dim
    biases = (queries + 2 * keys) * model.has_qkv_bias + model.num_heads * model.has_sinks
    norms = (2 + 2 * model.has_sandwich_norms) * model.hidden_size
    norms += 2 * model.head_dim * model.has_qk_norm
    norms += model.hidden_size * model.has_linear_biases  # of attention's output
    if model.latent is not None:
        norms += (model.latent.query_rank or 0) + model.latent.kv_rank
    whole, cut = norms + attention.whole, attention.cut + biases
    if not model.mixtures[layer]:
        return Parameters(whole=whole, cut=cut + 3 * model.hidden_size * model.ffn_size, expert=0)
    router = (model.hidden_size + model.has_linear_biases) * model.num_experts
    shared = 3 * model.hidden_size * model.shared_ffn_size
    experts = _expert_parameters(model) * model.num_experts
    if model.moe is not None and model.moe.shared is not None and model.moe.shared.has_gate:
        router += model.hidden_size
    return Parameters(whole=whole + router, cut=cut + shared, expert=experts)


def attention_parameters(model: ModelSpec) -> Parameters:
    """Count the parameters that one layer's attention multiplies every token with.

    Projections to latents are whole on every tensor-parallel rank, those of heads are cut.
    """
    queries = model.num_heads * model.head_dim
    latent = model.latent
    if latent is None:
        keys = model.num_groups * model.head_dim
        return Parameters(whole=0, cut=model.hidden_size * (2 * queries + 2 * keys), expert=0)
    down = model.hidden_size * (latent.kv_rank + model.rotary_dim)
    if latent.query_rank is None:
        up = model.hidden_size * queries
    else:
        down += model.hidden_size * latent.query_rank
        up = latent.query_rank * queries
    values = model.num_heads * latent.value_dim
    up += latent.kv_rank * (queries - model.num_heads * model.rotary_dim + values)
    return Parameters(whole=down, cut=up + values * model.hidden_size, expert=0)


def stage_layers(model: ModelSpec, layout: Layout, stage: int) -> list[int]:
    """Return which layers a pipeline stage holds; with interleaving, chunk by chunk."""
    size = model.num_layers // (layout.pp * layout.vpp)
    starts = [(chunk * layout.pp + stage) * size for chunk in range(layout.vpp)]
    return [start + i for start in starts for i in range(size)]


def stage_parameters(model: ModelSpec, layout: Layout, stage: int) -> Parameters:
    """Count the parameters of one pipeline stage, vocabulary padding included.

    The last of several stages has its own copy of a tied embedding.
    """
    vocabulary = -(-model.vocab_size // layout.tp) * layout.tp * model.hidden_size
    is_last = stage == layout.pp - 1
    num_tables = int(stage == 0) + int(is_last and not (model.is_tied and layout.pp == 1))
    parts = [layer_parameters(model, layer) for layer in stage_layers(model, layout, stage)]
    return Parameters(
        whole=sum(part.whole for part in parts) + model.hidden_size * is_last,
        cut=sum(part.cut for part in parts) + vocabulary * num_tables,
        expert=sum(part.expert for part in parts),
    )


def num_parameters(model: ModelSpec) -> int:
    """Count the parameters of the whole model."""
    return stage_parameters(model, _ALONE, 0).total


def num_active_parameters(model: ModelSpec) -> int:
    """Count the parameters that take part in one token, the embedding included."""
    idle = sum(model.mixtures) * (model.num_experts - model.experts_per_token)
    return num_parameters(model) - idle * _expert_parameters(model)


def _expert_parameters(model: ModelSpec) -> int:
    weights = 3 * model.hidden_size * model.expert_ffn_size
    return weights + (2 * model.expert_ffn_size + model.hidden_size) * model.has_linear_biases


_ALONE = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
