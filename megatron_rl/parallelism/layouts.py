"""Legal parallel layouts of a model, with a remedy in every refusal. Pure arithmetic."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from megatron_rl.errors import ConfigError
from megatron_rl.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the ranks share a model; data parallelism is whatever ranks are left."""

    tp: int
    """Tensor-parallel size."""
    sp: bool
    """Sequence parallelism within a tensor-parallel group."""
    pp: int
    """Pipeline stages."""
    vpp: int
    """Model chunks of each stage; 1 is the plain pipeline."""
    cp: int
    """Ranks that share every sequence."""
    ep: int
    """Ranks that share the experts of a layer."""
    etp: int
    """Tensor-parallel size of an expert."""

    @property
    def model_size(self) -> int:
        """Ranks that hold one copy of a dense model."""
        return self.tp * self.pp * self.cp


def check_layout(layout: Layout, model: ModelSpec) -> None:
    """Raise ConfigError naming everything about ``layout`` that this model does not allow."""
    broken = [
        *_tensor_parallel(layout, model),
        *_pipeline(layout, model),
        *_context_parallel(layout),
        *_experts(layout, model),
    ]
    if broken:
        raise ConfigError("\n".join(broken))


def check_world_size(layout: Layout, *, world_size: int) -> None:
    """Raise ConfigError when this many ranks do not make whole copies of the model."""
    size = layout.model_size
    if world_size % size:
        raise ConfigError(
            f"{world_size} learner ranks are not a multiple of tp * pp * cp = {layout.tp} * "
            f"{layout.pp} * {layout.cp} = {size}; start {max(1, world_size // size) * size} or "
            f"{(world_size // size + 1) * size}"
        )
    replicas = world_size // layout.pp
    if replicas % (layout.ep * layout.etp):
        raise ConfigError(
            f"ep * etp ({layout.ep} * {layout.etp}) must divide the {replicas} ranks of a "
            "pipeline stage"
        )


def _tensor_parallel(layout: Layout, model: ModelSpec) -> Iterator[str]:
    wanted = {
        "attention heads": model.num_heads,
        "key/value heads": model.num_groups,
        "ffn size": model.ffn_size,
    }
    if model.shared_ffn_size:
        wanted["shared expert's ffn size"] = model.shared_ffn_size
    yield from _indivisible("learner.parallel.tp", layout.tp, wanted)
    if layout.sp and layout.tp == 1:
        yield "learner.parallel.sp needs learner.parallel.tp >= 2; set sp = false"
    if model.moe is not None and layout.tp > 1 and not layout.sp:
        yield "a mixture of experts with learner.parallel.tp > 1 needs learner.parallel.sp = true"


def _pipeline(layout: Layout, model: ModelSpec) -> Iterator[str]:
    chunks = layout.pp * layout.vpp
    if layout.vpp > 1 and layout.pp == 1:
        yield "learner.parallel.vpp > 1 needs learner.parallel.pp >= 2; set vpp = 1"
    elif model.num_layers % chunks:
        name, value = ("pp", layout.pp) if layout.vpp == 1 else ("pp * vpp", chunks)
        legal = _nearest_divisors(chunks, model.num_layers)
        yield (
            f"{name}={value} does not divide {model.num_layers} layers; nearest legal: "
            + ", ".join(f"{name}={n}" for n in legal)
        )


def _context_parallel(layout: Layout) -> Iterator[str]:
    if layout.cp < 1:
        yield f"learner.parallel.cp ({layout.cp}) must be >= 1"


def _experts(layout: Layout, model: ModelSpec) -> Iterator[str]:
    if model.moe is None:
        if layout.ep > 1:
            yield (
                f"learner.parallel.ep ({layout.ep}) is for mixtures of experts, which this model "
                "is not; set ep = 1"
            )
        if layout.etp not in (1, layout.tp):
            yield (
                f"learner.parallel.etp ({layout.etp}) is for mixtures of experts, which this model "
                "is not; remove it"
            )
        return
    yield from _indivisible("learner.parallel.ep", layout.ep, {"experts": model.num_experts})
    yield from _indivisible(
        "learner.parallel.etp", layout.etp, {"experts' ffn size": model.expert_ffn_size}
    )
    if model.has_linear_biases and layout.etp > 1:
        yield (
            f"learner.parallel.etp ({layout.etp}, by default that of tp) must be 1 for experts "
            "with biases: Megatron adds a bias on every rank that shares an expert; set etp = 1"
        )


def _indivisible(key: str, value: int, sizes: Mapping[str, int]) -> Iterator[str]:
    broken = [f"{name} ({size})" for name, size in sizes.items() if size % value]
    if broken:
        smallest = min(sizes.values())
        legal = [n for n in range(1, smallest + 1) if all(size % n == 0 for size in sizes.values())]
        nearest = sorted(sorted(legal, key=lambda n: (abs(n - value), n))[:2])
        short = key.rpartition(".")[2]
        yield (
            f"{key} ({value}) does not divide the model's {' and '.join(broken)}; nearest legal: "
            + ", ".join(f"{short}={n}" for n in nearest)
        )


def _nearest_divisors(value: int, size: int) -> list[int]:
    """Return the legal numbers next to ``value``, below and above."""
    legal = [n for n in range(1, size + 1) if size % n == 0]
    below = [n for n in legal if n < value][-1:]
    above = [n for n in legal if n > value][:1]
    return below + above
