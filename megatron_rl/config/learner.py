"""Settings of the learner: layout, optimiser, cold start and checkpoints."""

from typing import Annotated, Any, Literal

from pydantic import Field

from megatron_rl.config.base import Fraction, LaxPath, NonNegative, Positive, Section


class OptimizerConfig(Section):
    """AdamW with linear warm-up to a constant learning rate."""

    lr: Annotated[float, Field(gt=0)] = 1e-6
    """Learning rate after warm-up."""
    warmup_steps: NonNegative = 10
    """Optimiser steps over which the rate rises linearly; the first one takes lr / (steps + 1)."""
    min_lr: Annotated[float, Field(ge=0)] | None = None
    """Decay (cosine) to this rate at the last step; constant when not given."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay, not applied to norms and biases."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.95
    """Decay of the second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""
    clip_grad: Annotated[float, Field(ge=0)] = 1.0
    """Largest global gradient norm; 0 switches clipping off."""


class ParallelConfig(Section):
    """Parallel layout of the model; the processes that are left make data parallelism."""

    tp: Positive = 1
    """Tensor-parallel size."""
    sp: bool = False
    """Sequence parallelism of norms and residuals within a tensor-parallel group."""
    pp: Positive = 1
    """Pipeline stages."""
    vpp: Positive = 1
    """Model chunks of each stage (interleaved pipeline); 1 is the plain pipeline."""
    cp: Positive = 1
    """Ranks that share every sequence (context parallelism), for long contexts."""
    ep: Positive = 1
    """Ranks that share the experts of a layer."""
    etp: Positive | None = None
    """Tensor-parallel size of an expert; tp when not given."""
    overlap_grad_reduce: bool = False
    """Reduce gradients while the backward pass still runs."""
    overlap_param_gather: bool = False
    """Gather updated parameters while the next forward pass starts."""


Precision = Literal["fp32", "bf16", "fp16", "fp8"]
_PRECISION_OF: dict[str, Precision] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def resolve_precision(precision: Precision | None, *, dtype: str) -> Precision:
    """Return the learner's precision: ``learner.precision``, else that of model.dtype."""
    return _PRECISION_OF[dtype] if precision is None else precision


_LOGITS_BYTES_GPU = 512 * 2**20
_LOGITS_BYTES_CPU = 128 * 2**20


def resolve_chunk_tokens(tokens: int | None, *, vocab_size: int, tp: int, is_gpu: bool) -> int:
    """Return the number of tokens whose logits exist at one time; 0 for a whole row.

    A GPU needs large products, and has the memory; a CPU computes as fast with less.
    """
    if tokens is not None:
        return tokens
    budget = _LOGITS_BYTES_GPU if is_gpu else _LOGITS_BYTES_CPU
    return max(1, budget // (4 * -(-vocab_size // tp)))


class LossScaleConfig(Section):
    """Loss scaling of precision "fp16": it halves on overflow and doubles after a quiet while."""

    initial: Annotated[float, Field(gt=0)] = 65536.0
    """Factor of the loss at the first step. Each overflow costs the step that found it."""
    minimum: Annotated[float, Field(gt=0)] = 1.0
    """Smallest factor; a gradient that overflows even so is a true failure."""
    window: Positive = 1000
    """Steps in a row without overflow after which the factor doubles."""
    hysteresis: Positive = 1
    """Overflows, since the factor last doubled, from which on each one halves it."""


class Fp8Config(Section):
    """Transformer Engine's FP8 of precision "fp8"; keys are Megatron's without their fp8 prefix."""

    recipe: Literal["delayed", "tensorwise", "blockwise", "mxfp8"] = "tensorwise"
    """Recipe of the scales: from past maxima, from each tensor, from its blocks, or MXFP8."""
    format: Literal["hybrid", "e4m3"] = "hybrid"
    """Types: e4m3 forward with e5m2 backward ("hybrid"), or e4m3 throughout."""
    margin: NonNegative = 0
    """Powers of two that a scale stays below the largest (delayed)."""
    amax_history_len: Positive = 1
    """Steps whose maxima are remembered (delayed)."""
    amax_compute_algo: Literal["most_recent", "max"] = "most_recent"
    """Choice among the remembered maxima (delayed)."""
    wgrad: bool = True
    """Compute weight gradients in FP8 as well (delayed)."""
    tp_only_amax_red: bool = False
    """Share maxima within tensor-parallel groups only (delayed, tensorwise)."""
    first_last_layers_bf16: bool = False
    """Keep the first and last layers in bf16 (any recipe but delayed)."""
    num_layers_at_start_in_bf16: NonNegative = 1
    """Layers that first_last_layers_bf16 keeps at the start."""
    num_layers_at_end_in_bf16: NonNegative = 1
    """Layers that first_last_layers_bf16 keeps at the end."""


class LearnerConfig(Section):
    """The Megatron-Core learner."""

    num_processes: Positive = 1
    """Ranks the local launcher starts (GPUs, or CPU processes); Slurm gives its own number."""
    token_budget: Positive = 16384
    """Largest number of tokens of one packed row (one microbatch)."""
    logprob_chunk_tokens: NonNegative | None = None
    """Tokens whose logits exist at one time; 0 makes those of a whole row at once. Not given, as
    many as make 512 MiB of float32 logits on a GPU, 128 MiB on a CPU."""
    precision: Precision | None = None
    """Precision of computing, main weights being float32; as model.dtype when not given."""
    fp32_lm_head: bool = False
    """Multiply with the output layer in float32, whatever the precision is."""
    deterministic: bool = False
    """Compute the same bits whenever the same batches are replayed, which a CPU does anyhow. On a
    GPU it is slower, and off Hopper attention is then torch's."""
    max_skipped_steps: Positive = 3
    """Batches in a row with a gradient of NaN or inf, whose step is left out, that end the run."""
    cpu_threads: Positive = 1
    """OpenMP threads of each rank when it computes on the CPU."""
    parallel: ParallelConfig = ParallelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss_scale: LossScaleConfig = LossScaleConfig()
    fp8: Fp8Config = Fp8Config()
    megatron: dict[str, Any] = Field(default_factory=dict)
    """Fields of megatron.core TransformerConfig that have no key of their own and leave the policy
    what it is: recomputation, offloading, kernels, and so on."""


class SftOptimizerConfig(OptimizerConfig):
    """AdamW of the cold start. A type of its own: a table that sets another key keeps this rate."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate after warm-up."""


class SftConfig(Section):
    """Supervised cold start before RL; leave the table out to start from the model as it is."""

    data: LaxPath
    """JSON lines of {"prompt", "response"}; the loss is on the response only.
    ``megatron-rl traces`` makes such a file of another run."""
    num_epochs: Positive = 1
    """Passes over the data."""
    batch_size: Positive = 64
    """Pairs of one optimiser step."""
    optimizer: SftOptimizerConfig = SftOptimizerConfig()
    checkpoint_every: NonNegative = 0
    """Steps between checkpoints; 0 saves only at the end."""
    select: Literal["last", "evaluation"] = "last"
    """Model that RL starts from: the last, or of ``candidates`` the one that solves most of the
    first held-out set. Servers start after it has been chosen."""
    candidates: Positive = 4
    """Models that are kept, at equal distances, the last included, where evaluation selects."""


class CheckpointConfig(Section):
    """Schedule of saving the learner's state, and of removing old checkpoints."""

    every: Positive = 20
    """Steps between checkpoints."""
    async_save: bool = True
    """Write while training goes on; false makes training wait until a checkpoint is written.
    Training waits for a copy of each rank's share, whose host memory then stays allocated."""
    keep: Positive = 3
    """Newest checkpoints kept."""
    keep_every: NonNegative = 0
    """Checkpoints of steps that are multiples of this are kept for good; 0 keeps none more."""
    keep_batches: NonNegative | None = None
    """Batch files kept before the oldest kept checkpoint; all of them when not given, as
    ``megatron-rl traces`` needs them."""
