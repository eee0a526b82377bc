"""Every setting of a run with its type, default, unit and meaning. Defaults live here only."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from megatron_rl.config.algorithm import AlgorithmConfig
from megatron_rl.config.base import Fraction, LaxPath, NonNegative, Positive, Seconds, Section


class ModelConfig(Section):
    """The policy that is trained."""

    path: LaxPath
    """Hugging Face folder: config.json, tokenizer and, unless init is "random", safetensors."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Where the first weights come from."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of the weights in the learner's forward pass and in the generators."""


class DataConfig(Section):
    """Problem files, JSON lines of {"id", "problem", "answer"[, "kind"]}."""

    train: LaxPath
    """Problems to train on."""
    evaluation: LaxPath | None = None
    """Held-out problems; no evaluation without them."""
    system_prompt: LaxPath | Literal["default", "none"] = "default"
    """A text file, "default" for the package's own, or "none"."""
    shuffle: bool = True
    """Draw a new order of the problems for every pass; false keeps the file's order."""


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


class SamplingConfig(Section):
    """How completions are drawn."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits, in the generators and in the learner alike."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus; below 1 the reported log-probs do not describe the sampler exactly."""
    max_new_tokens: Positive = 4096
    """Longest completion."""


class GeneratorsConfig(Section):
    """Stock SGLang servers."""

    num_servers: Positive = 1
    """Servers the local launcher starts."""
    tp: Positive = 1
    """Tensor-parallel size of one server."""
    python: LaxPath = Path(".venv-serve/bin/python")
    """Interpreter of the environment that has sglang."""
    host: str = "127.0.0.1"
    """Address to bind; name a cluster-internal interface to serve other nodes."""
    port: NonNegative = 0
    """First port; server i takes port + i. 0 picks free ones."""
    context_length: Positive | None = None
    """Longest prompt plus completion; the model's own limit when not given."""
    cpu_threads: Positive = 1
    """OpenMP threads of a server that computes on the CPU."""
    start_timeout_s: Seconds = 600.0
    """Longest time until a server is healthy."""
    request_timeout_s: Seconds = 3600.0
    """Longest time one completion may take."""
    max_attempts: Positive = 5
    """Attempts of a request that may heal (429, 5xx, lost connection)."""
    backoff_s: Seconds = 0.5
    """First pause between attempts; doubles each time."""
    max_restarts: NonNegative = 3
    """How often the local launcher starts a dead server again."""
    sampling: SamplingConfig = SamplingConfig()
    sglang: dict[str, Any] = Field(default_factory=dict)
    """Any flag of the installed sglang.launch_server, without dashes; true is a bare flag."""


class RolloutConfig(Section):
    """Which completions are in flight and how they become batches."""

    mode: Literal["async", "sync"] = "async"
    """sync generates, trains and publishes in turn: for debugging and as a baseline."""
    group_size: Annotated[int, Field(ge=2)] = 16
    """Completions per problem (G)."""
    n_batch: Positive = 2048
    """Completions between two weight updates."""
    n_minibatch: Positive | None = None
    """Completions of one optimiser step; n_batch when not given."""
    n_async: Positive = 4096
    """Completions in flight at any time."""
    max_steps_ahead: Positive = 1
    """Batches that may wait for the learner, the one being trained included."""
    max_lag_groups: NonNegative | None = None
    """A group still running is passed over when this many groups started after it are complete;
    it joins a later batch. The larger of two batches' worth and three times what is in flight when
    not given: with less, long completions are trained on too late to count."""
    drop_zero_advantage: Literal["reward", "correctness", "never"] = "reward"
    """Which equality within a group drops it."""


class JudgeConfig(Section):
    """The pool of verifier processes."""

    num_workers: Positive = 1
    """Verifier processes."""
    deadline_s: Seconds = 10.0
    """Longest execution of one verdict; queueing does not count."""
    max_retries: NonNegative = 1
    """Attempts after a crash or time-out before the completion's group is dropped by name."""


class RewardConfig(Section):
    """Parts of the reward (arXiv:2506.10910, section 2.2)."""

    format: float = 0.1
    """For a well-formed response; anything else earns 0 in total."""
    correctness: float = 0.9
    """For a right answer."""
    length_penalty: Annotated[float, Field(ge=0)] = 0.1
    """Largest deduction for length; 1.0 with a fifth of max_new_tokens as length_cache is DAPO's
    overlong penalty."""
    length_cache: Positive | None = None
    """Tokens before max_new_tokens over which the deduction grows; a fifth of it when not given."""


class WeightsConfig(Section):
    """How new weights reach the generators."""

    transport: Literal["collective", "disk"] = "collective"
    """collective: process group, in flight; disk: Hugging Face folder, the slow twin."""
    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """Of the collective transport; auto is NCCL between GPUs, else gloo. NCCL cannot connect a
    learner and a server that share one GPU."""
    bucket_mb: Positive = 512
    """Bytes broadcast per request, in MiB."""
    timeout_s: Seconds = 300.0
    """Longest time one publication may take."""


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


class EvaluationConfig(Section):
    """Held-out evaluation before, during and after training."""

    every: NonNegative = 20
    """Policy versions between evaluations; 0 evaluates only before and after."""
    num_samples: Positive = 1
    """Completions per problem."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Sampling temperature of evaluations."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus of evaluations."""


class TelemetryConfig(Section):
    """Where metrics go besides metrics.jsonl."""

    tensorboard: bool = True
    """Write event files."""
    wandb_project: str | None = None
    """Weights & Biases project; needs the wandb package."""


class RunConfig(Section):
    """One run."""

    run_dir: LaxPath
    """Folder of everything the run leaves; running again resumes."""
    num_steps: Positive
    """Batches to train on."""
    seed: int = 1
    """Of the curriculum, of random weights and of the learner's generators."""
    model: ModelConfig
    data: DataConfig
    sft: SftConfig | None = None
    learner: LearnerConfig = LearnerConfig()
    generators: GeneratorsConfig = GeneratorsConfig()
    rollout: RolloutConfig = RolloutConfig()
    judge: JudgeConfig = JudgeConfig()
    reward: RewardConfig = RewardConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    weights: WeightsConfig = WeightsConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
