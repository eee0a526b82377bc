"""The model a configuration names, and the layout it asks for: whether one suits the other."""

from megatron_rl.config import ParallelConfig, RunConfig
from megatron_rl.conversion.families import ModelSpec, read_model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.planning.layouts import Layout, ModelSizes, check_layout


def layout_of(parallel: ParallelConfig) -> Layout:
    """Return the layout; an expert is cut like everything else unless etp says otherwise."""
    return Layout(
        tp=parallel.tp,
        sp=parallel.sp,
        pp=parallel.pp,
        vpp=parallel.vpp,
        cp=parallel.cp,
        ep=parallel.ep,
        etp=parallel.tp if parallel.etp is None else parallel.etp,
    )


def check_layout_of(parallel: ParallelConfig, spec: ModelSpec) -> None:
    """Raise ConfigError for whatever of the layout this model does not allow."""
    sizes = ModelSizes(
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        num_groups=spec.num_groups,
        ffn_size=spec.ffn_size,
        num_experts=None if spec.moe is None else spec.moe.num_experts,
        expert_ffn_size=None if spec.moe is None else spec.moe.ffn_size,
    )
    check_layout(layout_of(parallel), sizes)


def checked_spec(config: RunConfig) -> ModelSpec:
    """Return what the model's folder says, once layout and context length are known to suit it.

    Raises:
        ConfigError: they do not. ModelError: the folder is not understood.
    """
    spec = read_model_spec(config.model.path)
    check_layout_of(config.learner.parallel, spec)
    context = config.generators.context_length
    if context is not None and context > spec.max_positions:
        raise ConfigError(
            f"generators.context_length ({context}) must be <= max_position_embeddings of the "
            f"model ({spec.max_positions}); remove the key to use the model's own limit"
        )
    return spec
