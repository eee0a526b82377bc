"""The sizes of a model that its parameters, FLOPs and memory follow from."""

from dataclasses import dataclass

from megatron_rl.parallelism.layouts import Layout, ModelSizes


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """A decoder-only transformer with gated feed-forward layers and without output biases."""

    hidden_size: int
    ffn_size: int
    """Inner size of a dense feed-forward layer."""
    num_heads: int
    num_groups: int
    head_dim: int
    vocab_size: int
    is_tied: bool
    has_qkv_bias: bool
    has_qk_norm: bool
    num_experts: int
    """0, like the two below, for a model without experts."""
    expert_ffn_size: int
    experts_per_token: int
    mixtures: tuple[bool, ...]
    """Per layer, whether it is a mixture of experts."""
    windows: tuple[int | None, ...]
    """Per layer, how many tokens a query sees, itself included; None for all before it."""

    def __post_init__(self) -> None:
        assert len(self.mixtures) == len(self.windows)
        assert self.num_experts or not any(self.mixtures)

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return len(self.mixtures)


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


def layer_parameters(shape: ModelShape, layer: int) -> Parameters:
    """Count the parameters of one layer."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_groups * shape.head_dim
    attention = shape.hidden_size * (2 * queries + 2 * keys)
    biases = (queries + 2 * keys) * shape.has_qkv_bias
    norms = 2 * shape.hidden_size + 2 * shape.head_dim * shape.has_qk_norm
    if not shape.mixtures[layer]:
        ffn = 3 * shape.hidden_size * shape.ffn_size
        return Parameters(whole=norms, cut=attention + biases + ffn, expert=0)
    router = shape.hidden_size * shape.num_experts
    experts = 3 * shape.hidden_size * shape.expert_ffn_size * shape.num_experts
    return Parameters(whole=norms + router, cut=attention + biases, expert=experts)


def stage_layers(shape: ModelShape, layout: Layout, stage: int) -> list[int]:
    """Return which layers a pipeline stage holds; with interleaving, chunk by chunk."""
    size = shape.num_layers // (layout.pp * layout.vpp)
    starts = [(chunk * layout.pp + stage) * size for chunk in range(layout.vpp)]
    return [start + i for start in starts for i in range(size)]


def stage_parameters(shape: ModelShape, layout: Layout, stage: int) -> Parameters:
    """Count the parameters of one pipeline stage, vocabulary padding included.

    The last of several stages has its own copy of a tied embedding.
    """
    vocabulary = -(-shape.vocab_size // layout.tp) * layout.tp * shape.hidden_size
    is_last = stage == layout.pp - 1
    num_tables = int(stage == 0) + int(is_last and not (shape.is_tied and layout.pp == 1))
    parts = [layer_parameters(shape, layer) for layer in stage_layers(shape, layout, stage)]
    return Parameters(
        whole=sum(part.whole for part in parts) + shape.hidden_size * is_last,
        cut=sum(part.cut for part in parts) + vocabulary * num_tables,
        expert=sum(part.expert for part in parts),
    )


def num_parameters(shape: ModelShape) -> int:
    """Count the parameters of the whole model."""
    return stage_parameters(shape, _ALONE, 0).total


def num_active_parameters(shape: ModelShape) -> int:
    """Count the parameters that take part in one token, the embedding included."""
    idle = sum(shape.mixtures) * (shape.num_experts - shape.experts_per_token)
    return num_parameters(shape) - idle * 3 * shape.hidden_size * shape.expert_ffn_size


def sizes_of(shape: ModelShape) -> ModelSizes:
    """Return what a layout has to divide."""
    return ModelSizes(
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        num_groups=shape.num_groups,
        ffn_size=shape.ffn_size,
        num_experts=shape.num_experts if shape.num_experts else None,
        expert_ffn_size=shape.expert_ffn_size if shape.num_experts else None,
    )


_ALONE = Layout(tp=1, sp=False, pp=1, vpp=1, cp=1, ep=1, etp=1)
