"""Configuration sections: type, default (set here only), unit and meaning of every setting."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Strict
from pydantic.json_schema import SkipJsonSchema

from megatron_rl.config.algorithm import AlgorithmConfig
from megatron_rl.config.base import LaxPath, NonNegative, Positive, RowRange, Seconds, Section
from megatron_rl.config.columns import ColumnsConfig
from megatron_rl.config.evaluation import EvaluationConfig
from megatron_rl.config.judging import JudgeConfig, RewardConfig
from megatron_rl.config.launch import LaunchConfig
from megatron_rl.config.learner import CheckpointConfig, LearnerConfig, SftConfig
from megatron_rl.config.lifecycle import LifecycleConfig
from megatron_rl.config.rope import RopeScalingConfig
from megatron_rl.config.sources import GroupSize, SourceConfig, TrainSetting
from megatron_rl.config.stages import StageConfig, StagePlace

OWN_NAME = "hostname"
"""As generators.host: this machine's own name, whatever machine that is."""


class ModelConfig(Section):
    """The policy that is trained."""

    path: LaxPath
    """Hugging Face folder: config.json, tokenizer and, unless init is "random", safetensors."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Source of the first weights."""
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Type of the weights that generators serve; learner.precision may differ."""
    rope_scaling: RopeScalingConfig | None = None


class DataConfig(Section):
    """Problem files: JSON lines of {"id", "problem", "answer"[, "kind"]}, or others' files."""

    train: TrainSetting
    """Problems to train on: JSON lines, a JSON array (both may be .gz or .zst), Parquet, Arrow, or
    a folder of Parquet files or of Hugging Face datasets' save_to_disk. Or a mixture of several,
    [[data.train]]."""
    rows: RowRange | None = None
    """Rows of ``train`` that are used, from 0, the end left out, such as "0:10000" or "-500:"."""
    reserve: LaxPath | None = None
    """Harder problems that join those of ``train`` once these are solved, with [data.lifecycle]:
    such as what tools/filter_difficulty.py finds too hard. Problems that ``train`` has as well are
    left out."""
    reserve_rows: RowRange | None = None
    """Rows of ``reserve`` that are used."""
    evaluation: LaxPath | None = None
    """Held-out problems; there may be further sets in [[evaluation.sets]], or those alone."""
    evaluation_rows: RowRange | None = None
    """Rows of ``evaluation`` that are used."""
    columns: ColumnsConfig | None = None
    """Columns of ``train``, where they are not the package's own."""
    evaluation_columns: ColumnsConfig | None = None
    """Columns of ``evaluation``, and of sets that have none of their own; those of ``train`` when
    not given. An empty section is the package's own form."""
    unusable: Literal["refuse", "drop"] = "refuse"
    """What to do with problems that cannot be used: without question or answer, with an answer that
    cannot be verified, or with a prompt that leaves no room. They are named, or dropped and
    counted."""
    system_prompt: LaxPath | Literal["default", "none"] = "default"
    """A text file, "default" for the package's own, or "none"."""
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Variables of the chat template, such as enable_thinking = false."""
    shuffle: bool = True
    """Draw a new order of the problems for every pass; false keeps the file's order."""
    lifecycle: LifecycleConfig | None = None
    """Problems leave the curriculum and come back by their own outcomes; all stay when not given.
    """

    @property
    def is_mixture(self) -> bool:
        """Whether the problems to train on come from named sources."""
        return not isinstance(self.train, Path)

    @property
    def sources(self) -> tuple[SourceConfig, ...]:
        """Sources of the problems to train on; a path is the only one."""
        if isinstance(self.train, Path):
            only = SourceConfig(
                path=self.train,
                rows=self.rows,
                columns=self.columns,
                reserve=self.reserve,
                reserve_rows=self.reserve_rows,
            )
            return (only,)
        return self.train


_TRUNCATED_TOP_K = 512


class SamplingConfig(Section):
    """Sampling parameters of completions that are trained on."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits, in the generators and in the learner alike."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus. Below 1, or with top_k or min_p, servers report what each token was chosen from, and
    the learner computes log-probs over that."""
    top_k: Annotated[int, Field(ge=2)] | None = None
    """Tokens of highest probability to choose from. Without it all, or 512 with top_p or min_p."""
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Least probability of a token to choose, as a share of that of the likeliest token."""
    max_new_tokens: Positive = 4096
    """Longest completion."""

    @property
    def is_truncated(self) -> bool:
        """Whether some tokens are never chosen."""
        return self.top_k is not None or self.top_p < 1 or self.min_p > 0

    @property
    def most_choices(self) -> int | None:
        """Most tokens that one is chosen from; None for the vocabulary."""
        return (self.top_k or _TRUNCATED_TOP_K) if self.is_truncated else None


class GeneratorsConfig(Section):
    """Stock SGLang servers."""

    num_servers: Positive = 1
    """Servers the local launcher starts."""
    tp: Positive = 1
    """Tensor-parallel size of one server."""
    nodes_per_server: Positive = 1
    """Nodes of a Slurm job that one server spans, with as many of its tensor-parallel ranks on
    each; for models that the GPUs of a node do not hold."""
    python: LaxPath = Path(".venv-serve/bin/python")
    """Interpreter of the environment that has sglang."""
    host: str = "127.0.0.1"
    """Address to bind; name a cluster-internal interface to serve other nodes. "hostname" is the
    address of the machine's own name, which a Slurm job of several nodes uses instead of 127.0.0.1.
    """
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
    hang_timeout_s: Seconds = 120.0
    """Silence after which a server is ended, and started again like a dead server."""
    max_attempts: Positive = 5
    """Attempts of a request that may heal (429, 5xx, lost connection)."""
    backoff_s: Seconds = 0.5
    """First pause between attempts; doubles each time."""
    max_restarts: NonNegative = 3
    """Number of restarts of dead servers in a run, all servers together. Those that restart after
    one failed broadcast of weights over NCCL count as one."""
    sampling: SamplingConfig = SamplingConfig()
    quantization: Literal["none", "block_fp8"] = "none"
    """Weights that servers hold under a learner. none: of model.dtype; block_fp8: matrices in FP8
    with a scale for each block of 128 x 128, quantised by the learner, on GPUs of compute
    capability 8.9 or 9.0."""
    sglang: dict[str, Any] = Field(default_factory=dict)
    """Any flag of the installed sglang.launch_server, without dashes; true is a bare flag."""


class RolloutConfig(Section):
    """Completions in flight, and the batches that are made of them."""

    mode: Literal["async", "sync", "lagged"] = "async"
    """sync generates, trains and publishes in turn: for debugging and as a baseline. lagged samples
    each batch from one version, ``lag`` older than the one it trains, while the learner works."""
    lag: Positive = 1
    """Versions between sampling and training, in mode lagged."""
    group_size: GroupSize = 16
    """Completions per problem (G)."""
    n_batch: Positive = 2048
    """Completions between two weight updates. Where sources have group sizes of their own, a batch
    is whole with the group that fills it, and may have some completions more."""
    n_minibatch: Positive | None = None
    """Completions of one optimiser step, as exactly as n_batch; n_batch when not given."""
    n_async: Positive = 4096
    """Completions in flight at any time."""
    max_steps_ahead: Positive = 1
    """Batches that may wait for the learner, the one being trained included, in mode async."""
    max_lag_groups: NonNegative | None = None
    """A group still running is passed over when this many groups started after it are complete;
    it joins a later batch. The larger of two batches' worth and three times what is in flight when
    not given: with less, long completions are trained on too late to count."""
    first_look: NonNegative = 2
    """Groups that are sampled and summed up beside the first batch, for people to look at; 0 for
    none."""
    drop_zero_advantage: Literal["reward", "correctness", "never"] = "reward"
    """Rule by which a group of equal completions is dropped."""

    max_barren_groups: NonNegative | None = None
    """Groups dropped one after the other, without one that is kept, at which the run ends and says
    why; 0 never ends it. Eight batches' worth, and 256 at least, when not given."""

    @property
    def minibatch(self) -> int:
        """Completions of one optimiser step."""
        return self.n_batch if self.n_minibatch is None else self.n_minibatch

    @property
    def minibatches(self) -> int:
        """Optimiser steps of one batch."""
        return self.n_batch // self.minibatch

    @property
    def barren_limit(self) -> int | None:
        """Dropped groups in a row that end the run; None for no end."""
        if self.max_barren_groups is None:
            return max(256, 8 * self.n_batch // self.group_size)
        return self.max_barren_groups or None

    @property
    def fixed_lag(self) -> int | None:
        """Versions between sampling and training in a mode that fixes them, else None."""
        return {"async": None, "sync": 0, "lagged": self.lag}[self.mode]

    @property
    def steps_ahead(self) -> int:
        """Batches that may wait for the learner, the one being trained included."""
        return self.max_steps_ahead if self.fixed_lag is None else self.fixed_lag + 1


class WeightsConfig(Section):
    """Transport of new weights to the generators."""

    transport: Literal["auto", "shards", "collective", "disk"] = "auto"
    """shards: from the learner ranks that hold them to the server ranks that use them; collective:
    whole tensors, broadcast by one rank; disk: a Hugging Face folder, the slow twin. auto is shards
    on CPUs, and collective on GPUs, where shards have not run yet."""
    verify: Literal["always", "admission", "never"] = "admission"
    """What servers prove that are sent shards. admission: once for each start of a server, that
    shards give bit for bit what whole tensors give; always: the bytes of every message as well."""
    pass_on: bool = True
    """Servers pass shards on to each other where there are so many that learner ranks would send
    for longer than a server rank needs for its own; false: the learner sends to every server."""
    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """Backend of shards and of the collective transport; auto is NCCL between GPUs, else gloo.
    NCCL cannot connect a learner and a server that share one GPU."""
    bucket_mb: Positive = 128
    """Bytes broadcast per request, in MiB."""
    timeout_s: Seconds = 300.0
    """Longest time one publication may take."""
    retry_after_s: Seconds = 30.0
    """Pause before a server that failed is given weights again; doubles with each failure."""

    def sends_shards(self, *, on_cpu: bool) -> bool:
        """Return whether learner ranks send shards, which compute on CPUs or on GPUs."""
        return self.transport == "shards" or (self.transport == "auto" and on_cpu)


class DifficultyConfig(Section):
    """Criteria by which tools/filter_difficulty.py keeps a problem."""

    num_samples: Positive = 16
    """Completions per problem, drawn with the settings of [evaluation]."""
    min_pass_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Problems solved less often are dropped, as are those never solved."""
    max_pass_rate: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Problems solved more often are dropped."""
    doubt_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Problems are dropped of which more than this share of the samples agree on one answer that is
    not the reference answer; 1 keeps them."""


class TelemetryConfig(Section):
    """Destinations of metrics besides metrics.jsonl."""

    tensorboard: bool = True
    """Write event files."""
    wandb_project: str | None = None
    """Weights & Biases project; needs the wandb package."""


class RunConfig(Section):
    """One run."""

    run_dir: LaxPath
    """Folder of all files of the run; starting the run again resumes it."""
    num_steps: Positive
    """Batches to train on."""
    seed: int = 1
    """Seed of the curriculum, of random weights and of the learner's generators."""
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
    difficulty: DifficultyConfig = DifficultyConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    launch: LaunchConfig = LaunchConfig()
    stages: Annotated[tuple[StageConfig, ...], Strict(False)] = ()
    """Stages that the run goes through, each with what it changes; see docs/stages.md."""
    stage: SkipJsonSchema[StagePlace | None] = None
    """Of a stage's own configuration, which launchers write: which stage it is."""
