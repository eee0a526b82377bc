"""Cases: models, layouts, and figures that others published."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from megatron_rl.conversion.families import model_spec
from megatron_rl.conversion.families.reading import read_model_spec
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.layouts import Layout, check_layout
from megatron_rl.parallelism.serving_ranks import check_serving_ranks

from .server_cuts import ServerCut

_RELEASED = Path(__file__).parents[2] / "tests/released"

_671B = {
    "model_type": "glm4_moe",
    "num_hidden_layers": 64,
    "first_k_dense_replace": 6,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "moe_intermediate_size": 2048,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "use_qk_norm": False,
    "attention_bias": False,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}
"""DeepSeek-V3's experts, widths and vocabulary in the family of GLM-4.5, with that family's
attention, and layers that 16 stages divide: 677 billion parameters, of which 653 in experts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model with the layouts of its learner and of a server."""

    name: str
    spec: ModelSpec
    layout: Layout
    cut: ServerCut

    def __post_init__(self) -> None:
        check_layout(self.layout, self.spec)
        check_serving_ranks(self.spec, tp=self.cut.tp, ep=self.cut.ep)

    @property
    def fewest_ranks(self) -> int:
        """Learner ranks that hold one copy of the model."""
        layout = self.layout
        per_stage = layout.tp * layout.cp
        while per_stage % (layout.ep * layout.etp):
            per_stage += layout.tp * layout.cp
        return layout.pp * per_stage

    def describe(self) -> str:
        """Return both layouts in words."""
        sizes = {name: getattr(self.layout, name) for name in ("tp", "pp", "vpp", "cp", "ep")}
        if self.layout.etp != self.layout.tp and self.spec.moe is not None:
            sizes["etp"] = self.layout.etp
        return f"learner {_words(sizes)}, servers {_words({'tp': self.cut.tp, 'ep': self.cut.ep})}"


def _words(sizes: Mapping[str, int]) -> str:
    shown = [f"{name} {size}" for name, size in sizes.items() if size > 1 or name == "etp"]
    return " ".join(shown) if shown else "tp 1"


def layout_of(sizes: Mapping[str, int]) -> Layout:
    """Return the layout of the sizes that are named; the others are 1."""
    tp, pp, vpp, cp, ep, etp = (
        sizes.get(name, 1) for name in ("tp", "pp", "vpp", "cp", "ep", "etp")
    )
    return Layout(tp=tp, sp=tp > 1, pp=pp, vpp=vpp, cp=cp, ep=ep, etp=etp)


def standard_cases() -> list[Case]:
    """Return a dense model, a mixture and a large mixture."""
    return [
        Case(
            name="24B dense (Mistral Small)",
            spec=read_model_spec(_RELEASED / "Mistral-Small-24B"),
            layout=layout_of({"tp": 4}),
            cut=ServerCut(tp=2, ep=1),
        ),
        Case(
            name="30B-A3B (Qwen3)",
            spec=read_model_spec(_RELEASED / "Qwen3-30B-A3B"),
            layout=layout_of({"ep": 8}),
            cut=ServerCut(tp=2, ep=1),
        ),
        Case(
            name="671B class (GLM-4.5's family)",
            spec=model_spec(_671B),
            layout=layout_of({"tp": 8, "pp": 4, "ep": 64}),
            cut=ServerCut(tp=64, ep=64),
        ),
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A figure that others published, and the same layout here where it can be had."""

    source: str
    model: str
    layouts: str
    seconds: str
    case: Case | None
    num_ranks: int = 0
    num_servers: int = 0


def published() -> list[Published]:
    """Return figures of peers, as published by them on their own machines."""
    _, mixture, large = standard_cases()

    def same(case: Case, learner: Mapping[str, int], cut: ServerCut) -> Case:
        return Case(name=case.name, spec=case.spec, layout=layout_of(learner), cut=cut)

    return [
        Published(
            source="miles p2p (lmsys.org/blog/2026-04-29-p2p-update)",
            model="Kimi K2, FP8",
            layouts="not named here",
            seconds="7.2 (53 before)",
            case=None,
        ),
        Published(
            source="NeMo-RL nccl_reshard (PR #2971)",
            model="30B",
            layouts="EP8 PP2 -> TP2 DP8",
            seconds="1.21-1.52",
            case=same(mixture, {"pp": 2, "ep": 8}, ServerCut(tp=2, ep=1)),
            num_ranks=16,
            num_servers=8,
        ),
        Published(
            source="NeMo-RL nccl_reshard (PR #2971)",
            model="30B",
            layouts="EP8 PP2 -> TP8 DP2",
            seconds="0.74-1.00",
            case=same(mixture, {"pp": 2, "ep": 8}, ServerCut(tp=8, ep=1)),
            num_ranks=16,
            num_servers=2,
        ),
        Published(
            source="NeMo-RL NCCL Xfer (PR #2413)",
            model="235B",
            layouts="TP4 PP8 EP16 -> TP8 DP16",
            seconds="4.56-4.85",
            case=None,  # 94 layers do not make 8 equal stages
        ),
        Published(
            source="NeMo-RL NCCL Xfer (PR #2413)",
            model="DeepSeek-V3",
            layouts="PP16 EP16 -> TP32 DP8",
            seconds="7.65-9.94",
            case=same(large, {"pp": 16, "ep": 16}, ServerCut(tp=32, ep=1)),
            num_ranks=256,
            num_servers=8,
        ),
    ]
