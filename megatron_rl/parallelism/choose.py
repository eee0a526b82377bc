"""Choose layouts that fit a number of GPUs, best first. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from megatron_rl.errors import ConfigError
from megatron_rl.model_spec import ModelSpec
from megatron_rl.parallelism.layouts import Layout, check_layout, check_world_size
from megatron_rl.parallelism.memory import Memory, Precision, estimate_memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A layout that fits."""

    layout: Layout
    dp_size: int
    is_recomputed: bool
    memory: Memory

    @property
    def rank(self) -> tuple[int, ...]:
        """Sort by this: the best comes first.

        Not to compute activations twice counts most, then few GPUs for a copy of the model (hence
        many copies), then few ranks for its experts. Of layouts alike in these, one with fewer
        pipeline stages is better, then one with fewer context-parallel ranks: tensor parallelism
        within a node is what remains.
        """
        layout = self.layout
        return (self.is_recomputed, layout.model_size, layout.ep, layout.pp, layout.cp, layout.tp)


def fitting_layouts(
    model: ModelSpec,
    *,
    num_gpus: int,
    gpus_per_node: int,
    gpu_bytes: int,
    token_budget: int,
    chunk_tokens: int | None,
    precision: Precision,
    has_reference: bool,
) -> list[Candidate]:
    """Return the legal layouts that take at most ``gpu_bytes``, best first; see Candidate.rank.

    Tensor parallelism stays within a node and comes with sequence parallelism; experts are not cut
    by tensor parallelism, and stages not into chunks.
    """
    candidates = [
        Candidate(
            layout=layout,
            dp_size=num_gpus // layout.model_size,
            is_recomputed=is_recomputed,
            memory=estimate_memory(
                model,
                layout,
                world_size=num_gpus,
                precision=precision,
                token_budget=token_budget,
                chunk_tokens=chunk_tokens,
                is_recomputed=is_recomputed,
                has_reference=has_reference,
                has_fp32_head=False,
            ),
        )
        for layout in legal_layouts(model, num_gpus=num_gpus, gpus_per_node=gpus_per_node)
        for is_recomputed in (False, True)
    ]
    fitting = [candidate for candidate in candidates if candidate.memory.total <= gpu_bytes]
    return sorted(fitting, key=lambda candidate: candidate.rank)


def legal_layouts(model: ModelSpec, *, num_gpus: int, gpus_per_node: int) -> Iterator[Layout]:
    """Yield the layouts that this model and this number of GPUs allow."""
    # Transformer Engine's attention has no sliding window over context-parallel ranks. Torch's,
    # which has, is that of a model with sinks.
    slides = model.window is not None and not model.has_sinks
    # An expert is small: cutting it is worth less than spreading the experts.
    for tp in _divisors(gpus_per_node):
        for pp in _divisors(num_gpus):
            for cp in (1,) if slides else _divisors(num_gpus):
                for ep in _divisors(num_gpus) if model.num_experts else (1,):
                    etp = 1 if model.num_experts else tp
                    layout = Layout(tp=tp, sp=tp > 1, pp=pp, vpp=1, cp=cp, ep=ep, etp=etp)
                    try:
                        check_layout(layout, model)
                        check_world_size(layout, world_size=num_gpus)
                    except ConfigError:
                        continue
                    yield layout


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
