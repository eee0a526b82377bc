"""Settings of the learner: layout, optimiser, cold start and checkpoints."""

from typing import Annotated, Any

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
    """How the model is laid out; data parallelism is whatever processes are left."""

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


class LearnerConfig(Section):
    """The Megatron-Core learner."""

    num_processes: Positive = 1
    """Ranks the local launcher starts (GPUs, or CPU processes); Slurm gives its own number."""
    token_budget: Positive = 16384
    """Most tokens of one packed row (one microbatch)."""
    logprob_chunk_tokens: NonNegative = 256
    """Tokens whose logits exist at one time; 0 makes those of a whole row at once."""
    fp32_lm_head: bool = False
    """Multiply with the output layer in float32, whatever model.dtype is."""
    max_skipped_steps: Positive = 3
    """Batches in a row with a gradient of NaN or inf, whose step is left out, that end the run."""
    cpu_threads: Positive = 1
    """OpenMP threads of each rank when it computes on the CPU."""
    parallel: ParallelConfig = ParallelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    megatron: dict[str, Any] = Field(default_factory=dict)
    """Any field of megatron.core TransformerConfig, passed as it is."""


class SftOptimizerConfig(OptimizerConfig):
    """AdamW of the cold start. A type of its own: a table that sets another key keeps this rate."""

    lr: Annotated[float, Field(gt=0)] = 1e-5
    """Learning rate after warm-up."""


class SftConfig(Section):
    """Supervised cold start before RL; leave the table out to start from the model as it is."""

    data: LaxPath
    """JSON lines of {"prompt", "response"}; the loss is on the response only."""
    num_epochs: Positive = 1
    """Passes over the data."""
    batch_size: Positive = 64
    """Pairs of one optimiser step."""
    optimizer: SftOptimizerConfig = SftOptimizerConfig()
    checkpoint_every: NonNegative = 0
    """Steps between checkpoints; 0 saves only at the end."""


class CheckpointConfig(Section):
    """When the learner's state is saved."""

    every: Positive = 20
    """Steps between checkpoints."""
    keep: Positive = 3
    """Newest checkpoints kept."""
    keep_every: NonNegative = 0
    """Checkpoints of steps that are multiples of this are kept for good; 0 keeps none more."""
    keep_batches: NonNegative | None = None
    """Batch files kept before the oldest kept checkpoint; all of them when not given."""
