"""Sizes of all stages: those for a GPU, and small ones for a rehearsal on the CPU."""

from dataclasses import dataclass

from megatron_rl.programs.gpu_stages.shapes import Shape
from megatron_rl.programs.stage_runs.stage import Place

_QWEN3_1_7B = Shape(name="Qwen3-1.7B", sizes=(28, 2048, 16, 8, 6144, 151936))
_QWEN3_0_6B = Shape(name="Qwen3-0.6B", sizes=(28, 1024, 16, 8, 3072, 151936))
_SERVED = Shape(name="0.3 billion parameters", sizes=(16, 1024, 16, 8, 3072, 32768))
_TINY = Shape(name="tiny", sizes=(2, 256, 8, 4, 512, 512), std=0.05)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How large and how long everything is."""

    matrix: int
    """Rows and columns of the product of the stage "device"."""
    num_bytes: int
    """Of the all-reduce."""
    policy: Shape
    """Model that learner and server share."""
    context_length: int
    num_sequences: int
    """Sampled for a comparison of log-probs."""
    num_updates: int
    """Published while sequences run."""
    in_flight: int
    """Completions at once when the server's speed is measured."""
    seconds: float
    """For which it is measured."""
    cache_tokens: int
    """Of the server's key-value cache."""
    trained: tuple[Shape, ...]
    """Shapes whose training is measured: the first that fits the GPU's memory."""
    length: int
    """Tokens of a sequence, and of a row, in that."""
    rows: int
    """Rows of one step, in that."""
    steps: int
    """Steps that are measured, in that."""
    demo: tuple[str, ...]
    """Settings of the demo."""
    demo_lines: int | None
    """Lines of each of its files that it gets; None for all."""


ON_GPU = Sizes(
    matrix=8192,
    num_bytes=256 * 2**20,
    policy=_SERVED,
    context_length=512,
    num_sequences=64,
    num_updates=8,
    in_flight=128,
    seconds=10.0,
    cache_tokens=65536,
    trained=(_QWEN3_1_7B, _QWEN3_0_6B),
    length=4096,
    rows=8,
    steps=5,
    demo=("num_steps=60", "model.dtype=bfloat16"),
    demo_lines=None,
)
ON_CPU = Sizes(
    matrix=256,
    num_bytes=4 * 2**20,
    policy=_TINY,
    context_length=96,
    num_sequences=12,
    num_updates=2,
    in_flight=8,
    seconds=2.0,
    cache_tokens=8192,
    trained=(_TINY,),
    length=64,
    rows=2,
    steps=2,
    demo=(
        *("num_steps=2", "model.dtype=bfloat16", "rollout.n_batch=16", "rollout.n_async=16"),
        *("generators.sampling.max_new_tokens=32", "generators.sglang.max-total-tokens=4096"),
        *("evaluation.num_samples=1", "rollout.drop_zero_advantage=never", "sft=null"),
    ),
    demo_lines=64,
)


def sizes_of(place: Place) -> Sizes:
    """Return the sizes for where a stage runs."""
    return ON_CPU if place.is_rehearsal else ON_GPU
