"""The layout a configuration asks for, checked against the model it is for."""

from megatron_rl.config import ParallelConfig
from megatron_rl.conversion.families import ModelSpec
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
